"""What crosses processes: fork, pickles, multiprocessing, crashes of a writer."""

from __future__ import annotations

import copy as copying
import errno
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from conftest import MODEL

import blyan
from blyan import exceptions

PROMPT = "In the beginning"


def in_child(work) -> None:  # type: ignore[no-untyped-def]
    """Runs `work` in a forked child; what it raises fails the test, as does a child that never ends."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # Ends a child that waits for a lock, too.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(120)
        try:
            work()
            os.write(writing, b"fine")
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    said = b""
    while part := os.read(reading, 4096):
        said += part
    os.close(reading)
    os.waitpid(child, 0)
    assert said == b"fine", said


def test_after_fork(copy: blyan.Chain) -> None:
    model = blyan.MoEModelManager(copy)
    session, stream = model.session(), model.stream(PROMPT, max_tokens=5)
    next(stream)
    g = model.generate(PROMPT, max_tokens=12)
    counted = model.usage.experts()
    block = next(copy.blocks(kind="expert"))
    view, walk = block.tensors["up_proj.weight"], iter(copy)
    expected = bytes(view)
    next(walk)
    place = copy.path
    assert place is not None

    def child() -> None:
        assert repr(session) == "<Session of another process>"
        # Threads of its own, the same bits.
        assert model.generate(PROMPT, max_tokens=12) == g
        assert model.generate_batch([PROMPT] * 2, max_tokens=12) == [g, g]
        assert model.logits([3, 17]).shape == (2, 2048)
        assert model.session().generate(PROMPT, max_tokens=12) == g
        for use in (
            lambda: copy.block(block),
            lambda: len(copy),
            lambda: next(walk),
            lambda: block.tensors,
            lambda: copy.append(blyan.Draft("D", 4096, "note", b"x")),
            lambda: next(stream),
            lambda: session.generate(PROMPT),
        ):
            with pytest.raises(exceptions.ForkedError) as error:
                use()
            assert error.value.code == "forked" and error.value.process == os.getppid()
            assert isinstance(error.value, RuntimeError)
        # What is mapped stays mapped, and what is a value stays one.
        assert bytes(view) == expected and numpy.asarray(view).nbytes == len(expected)
        assert block.name and g.text and "of another process" in repr(copy)
        copy.close()
        with pytest.raises(exceptions.ChainLockedError):
            blyan.Chain(place)
        with blyan.Chain(place, read_only=True) as own:
            assert own.verify(full=True).ok and bytes(own[block].tensors["up_proj.weight"]) == expected
            assert blyan.replay(own, g.receipt)
        with blyan.Chain.in_memory() as other:
            blyan.import_checkpoint(other, MODEL, dtype="int8")
            other.append(blyan.Draft("D", 4096, "note", bytes(1 << 20)))

        def grandchild() -> None:
            assert model.generate(PROMPT, max_tokens=12) == g
            with blyan.Chain(place, read_only=True) as own:
                assert own.verify(full=True).ok

        in_child(grandchild)

    in_child(child)
    assert model.usage.experts() == counted, "what the child did is not counted here"
    assert [p.token for p in stream] == g.tokens[1:5]
    assert session.generate(PROMPT, max_tokens=12) == g


def test_fork_while_other_threads_work(place: Path) -> None:
    with blyan.Chain(place, read_only=True) as chain:
        model = blyan.MoEModelManager(chain, persist_usage=False)
        expected = model.generate(PROMPT, max_tokens=8)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                model.generate("And", max_tokens=30)
                chain.verify(full=True)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                in_child(lambda: None if model.generate(PROMPT, max_tokens=8) == expected else 1 / 0)
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_a_fork_finds_no_lock_taken(place: Path) -> None:
    # A lock that another thread has in the moment of the fork is never given back in the child. These calls do
    # little else than lock the model.
    with blyan.Chain(place, read_only=True) as chain:
        model = blyan.MoEModelManager(chain, persist_usage=False)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                for _ in range(100):
                    model.threads  # noqa: B018

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(200):
                in_child(lambda: None if model.threads else 1 / 0)
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("raises", [False, True])
def test_a_callback_that_forks(place: Path, raises: bool) -> None:
    # The child comes back to a call whose work is done in its parent.
    parent = os.getpid()
    children: list[int] = []
    found: BaseException | None = None

    def report(_: blyan.VerifyProgress) -> None:
        if not children:
            children.append(os.fork())
            if os.getpid() != parent:
                signal.alarm(120)
                if raises:
                    sys.exit(3)

    with blyan.Chain(place, read_only=True) as chain:
        try:
            chain.verify(full=True, progress=report)
        except BaseException as raised:
            found = raised
        finally:
            if os.getpid() != parent:
                own = isinstance(found, SystemExit) and found.code == 3
                forked = isinstance(found, exceptions.ForkedError) and found.process == parent
                os._exit(0 if (own if raises else forked) else 1)
    assert found is None and os.waitpid(children[0], 0)[1] == 0


def test_a_callback_in_a_child_has_threads_for_its_calls(place: Path, folder: Path) -> None:
    # The child's only thread waited for the callback, and the callback's call for that thread.
    def child() -> None:
        os.environ["RAYON_NUM_THREADS"] = "1"
        seen = []
        with blyan.Chain(place, read_only=True) as chain, blyan.Chain.in_memory() as other:
            assert chain.verify(full=True, progress=lambda _: seen.append(len(chain))).ok
            blyan.import_checkpoint(other, folder, progress=lambda _: seen.append(len(chain)))
        assert len(seen) > 1 and set(seen) == {47}

    in_child(child)


def test_training_stays_in_the_process_that_began_it(place: Path) -> None:
    script = f"""
import os, signal, blyan
from blyan import exceptions, learn
signal.alarm(50)
def train():
    with blyan.Chain({str(place)!r}, read_only=True) as chain:
        tokens = [1 + index % 7 for index in range(64)]
        trainer = learn.Trainer(chain, chain.snapshot(), tokens, ["layer0.expert1"], steps=1, batch=1, sequence=8)
        trainer.step()
train()
if os.fork() == 0:
    signal.alarm(50)
    try:
        train()
    except exceptions.ForkedError as error:
        os._exit(0 if error.process == os.getppid() and "spawn" in str(error) else 1)
    os._exit(2)
assert os.wait()[1] == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_child_that_ends_in_the_ordinary_way(place: Path) -> None:
    # Handles of the parent are garbage-collected in the child, where dropping them would wait for ever.
    script = f"""
import os, sys, blyan
chain = blyan.Chain({str(place)!r}, read_only=True)
model = blyan.MoEModelManager(chain)
model.generate("x", max_tokens=3)
stream = model.stream("x", max_tokens=3)
next(stream)
if os.fork() == 0:
    del chain, stream
    model.generate("x", max_tokens=3)
    sys.exit(0)
os.wait()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_exit_in_the_middle(place: Path) -> None:
    # The interpreter ends while threads of the core are at work.
    script = f"""
import sys, threading, blyan
chain = blyan.Chain({str(place)!r}, read_only=True)
model = blyan.MoEModelManager(chain, persist_usage=False)
threading.Thread(target=lambda: model.generate("x", ignore_eos=True), daemon=True).start()
stream = model.stream("x")
next(stream)
walk = iter(chain)
next(walk)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_pickles(copy: blyan.Chain) -> None:
    model = blyan.MoEModelManager(copy, threads=1, kv_cache="f32", prefill_chunk=7)
    g = model.generate(PROMPT, max_tokens=4, logprobs=1)
    block = next(copy.blocks(kind="expert"))
    base = copy.snapshot()
    draft = blyan.Draft("D", 4096, "note", b"x", parents=[block.hash])
    values = [
        block,
        block.hash,
        block.parents[0],
        block.payload,
        block.payload_hash,
        block.tensors["up_proj.weight"],
        g,
        g.receipt,
        g.receipt.hash,
        g.logprobs[0],
        next(model.stream(PROMPT, max_tokens=1)),
        copy.root(),
        base,
        base.slots["embedding"],
        copy.verify(full=True),
        copy.sign(block, bytes(32), time_ms=1),
        blyan.BadBlock(block.hash, "reason", "name", "height"),
        model.usage.top(1)[0],
        model.usage.co_use()[0],
        model.residency(),
        blyan.import_checkpoint(copy, MODEL, dry_run=True),
        draft,
        blyan.TensorBlock(bytes(block.payload))["up_proj.weight"],
    ]
    for value in values:
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(value, protocol))
            assert type(again) is type(value) and again == value, value
        assert copying.deepcopy(value) == value
    bad = pickle.loads(pickle.dumps(values[16]))
    assert (bad.name, bad.damage) == ("name", "height")
    tensors = pickle.loads(pickle.dumps(block.tensors))
    assert tensors["up_proj.weight"] == block.tensors["up_proj.weight"]
    chain = pickle.loads(pickle.dumps(copy))
    assert chain.path == copy.path and not chain.writable and len(chain) == len(copy)
    imported = blyan.import_checkpoint(copy, MODEL)
    again = pickle.loads(pickle.dumps(imported))
    assert again == imported and again.report == imported.report is not None and block.report is None
    usage = pickle.loads(pickle.dumps(model.usage))
    assert type(usage) is blyan.UsageTracker and usage.model == model.model and list(usage) == list(model.usage)
    other = pickle.loads(pickle.dumps(model))
    assert (other.model, other.threads, other.kv_cache) == (model.model, 1, "f32")
    assert other.generate(PROMPT, max_tokens=4, logprobs=1) == g
    error = None
    try:
        copy["0" * 64]
    except KeyError as raised:
        error = pickle.loads(pickle.dumps(raised))
    assert isinstance(error, exceptions.BlockNotFoundError)
    assert error.code == "not_found" and error.block == "0" * 64 and "there is no block" in str(error)


def test_errors_of_the_system_keep_their_fields_in_a_pickle(tmp_path: Path) -> None:
    # An OSError has its fields beside `__dict__`: they once got lost between processes.
    def raised(call: Callable[[], object]) -> OSError:
        with pytest.raises(OSError) as caught:
            call()
        return caught.value

    with blyan.Chain.in_memory() as chain:
        refused = raised(lambda: blyan.import_checkpoint(chain, tmp_path / "none"))
    missing = raised(lambda: blyan.Chain(tmp_path / "none", read_only=True))
    assert refused.errno == errno.ENOENT and refused.filename == missing.filename == str(tmp_path / "none")
    assert missing.errno == errno.ENOENT
    # What Python calls a number, it is, too.
    denied = exceptions._make("StorageError", "io", "denied", {"errno": errno.EACCES, "strerror": "no"})
    assert isinstance(denied, exceptions.StorageError) and isinstance(denied, PermissionError)
    for error in (refused, missing, denied):
        error.add_note("noted")
        for again in (pickle.loads(pickle.dumps(error)), copying.copy(error), copying.deepcopy(error)):
            assert type(again) is type(error) and str(again) == str(error) and again.__dict__ == error.__dict__
            for field in ("errno", "strerror", "filename"):
                assert getattr(again, field) == getattr(error, field)


def test_a_changed_snapshot_is_pickled_too(copy: blyan.Chain) -> None:
    base = copy.snapshot()
    old = copy[base.slots["layer0.expert0"].block]
    data = blyan.write_tensors(
        {n: (v.dtype, v.shape, bytes(v)[:-2] + b"\0\0") for n, v in old.tensors.items()}
    )
    new = copy.append(blyan.Draft("B", "expert", old.name, data, "1.0.1", [base.spec_block, (old, "predecessor")]))
    changed = base.with_block(new)
    assert pickle.loads(pickle.dumps(changed)) == changed != base
    model = blyan.MoEModelManager(copy, changed)
    assert pickle.loads(pickle.dumps(model)).model == model.model


def test_what_has_no_path_is_not_pickled(empty: blyan.Chain) -> None:
    blyan.import_checkpoint(empty, MODEL)
    block = next(iter(empty))
    for value in (empty, block, empty.snapshot(), blyan.MoEModelManager(empty), block):
        with pytest.raises(pickle.PicklingError):
            pickle.dumps(value)
    with pytest.raises(TypeError):
        pickle.dumps(blyan.MoEModelManager(empty).session())


def first_tokens(model: blyan.MoEModelManager) -> list[int]:
    return model.generate(PROMPT, max_tokens=6).tokens


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_multiprocessing(chain: blyan.Chain, model: blyan.MoEModelManager, method: str) -> None:
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(first_tokens, [model, model]) == [first_tokens(model)] * 2


def test_a_killed_writer_leaves_a_sound_chain(tmp_path: Path) -> None:
    script = f"""
import os, blyan
chain = blyan.Chain({str(tmp_path / "c")!r})
blyan.import_checkpoint(chain, {str(MODEL)!r})
writer = chain.writer()
writer.append(blyan.Draft("D", 4096, "note", b"x"))
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == -9
    with blyan.Chain(tmp_path / "c") as chain:
        assert len(chain) == 47 and chain.verify(full=True).ok


def test_blocks_that_are_unpickled_share_one_chain(copy: blyan.Chain) -> None:
    data = pickle.dumps(list(copy))
    before = len(os.listdir("/proc/self/fd"))
    blocks = pickle.loads(data)
    assert len(blocks) == len(copy) and len(os.listdir("/proc/self/fd")) - before < 5


def test_a_chain_that_is_made_anew_is_unpickled_anew(tmp_path: Path) -> None:
    # What was kept of the old one once stood for the new one at its path.
    def made(text: bytes) -> bytes:
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
        with blyan.Chain(tmp_path / "c") as chain:
            return pickle.dumps(chain.append(blyan.Draft("D", 4096, "note", text)))

    kept = pickle.loads(made(b"old"))
    block = pickle.loads(made(b"new"))
    assert bytes(block.payload) == b"new" and block != kept
