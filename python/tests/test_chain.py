"""Chains, blocks, writers, signatures, verification; hashes against the blake3 package."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import blake3
import pytest
from conftest import MODEL, payload_file

import blyan
from blyan import exceptions


def note(text: bytes = b"x", **fields: object) -> blyan.Draft:
    return blyan.Draft("D", 4096, "note", text, **fields)  # type: ignore[arg-type]


def test_every_block_is_named_by_its_bytes(chain: blyan.Chain) -> None:
    blocks = list(chain)
    assert len(blocks) == len(chain) == 47
    for block in blocks:
        assert blake3.blake3(block.header, derive_key_context="blyan block 1").hexdigest() == block.hash
        payload = bytes(block.payload)
        assert blake3.blake3(payload).hexdigest() == block.payload_hash
        assert len(payload) == block.payload_bytes == len(block.payload)
        file = chain.payload_path(block.payload_hash)
        assert file is not None and (not block.payload.mapped or file.read_bytes() == payload)
        assert block in chain and block.hash in chain and block.hash.digest in chain
        assert chain[block] == chain[block.hash] == chain.block(bytes(block.hash)) == block
        assert hash(chain[block]) == hash(block)
    assert len({block.hash for block in blocks}) == 47
    assert "0" * 64 not in chain


def test_the_root_names_the_tips(chain: blyan.Chain) -> None:
    tips = sorted(chain.tips())
    assert tips == sorted(chain.tips("A") + chain.tips("B") + chain.tips("dataset"))
    hasher = blake3.blake3(derive_key_context="blyan chain root 1")
    for tip in tips:
        hasher.update(tip.digest)
    assert chain.root() == hasher.hexdigest()
    assert isinstance(chain.root(), blyan.ChainRoot)


def test_walks_agree_with_the_parents(chain: blyan.Chain) -> None:
    blocks = {block.hash: block for block in chain}
    seen: set[str] = set()
    for block in chain.topological_order():
        assert all(parent.hash in seen for parent in block.parents)
        assert block.height == max((blocks[p.hash].height + 1 for p in block.parents), default=0)
        seen.add(block.hash)
    for block in blocks.values():
        children = sorted(b.hash for b in blocks.values() if block.hash in [p.hash for p in b.parents])
        assert chain.children(block) == children
    (model,) = chain.heads("model")
    assert {b.hash for b in chain.ancestors(model)} == set(blocks) - {model.hash}
    assert [b.kind for b in chain.blocks(lane="A")] == ["spec", "model"]
    assert [b.kind for b in chain.blocks(lane="meta", kind="spec")] == ["spec"]
    assert list(chain.blocks(lane="A", kind="expert")) == list(chain.blocks(lane="D")) == []
    experts = [b.hash for b in chain.blocks(kind="expert")]
    assert experts == [b.hash for b in chain.blocks(lane="B", kind=19)]
    assert experts == [b.hash for b in chain.blocks(lane="B") if b.kind == "expert"] and len(experts) == 32
    assert [b.hash for b in chain.blocks()] == [b.hash for b in chain]


def test_append_and_read(tmp_path: Path) -> None:
    with blyan.Chain(tmp_path / "c") as chain:
        first = chain.append(note(b"one"))
        second = chain.append(
            note(bytearray(b"two"), version="1.2.3-rc.1", parents=[first, (first.hash, "dependency")])
        )
        assert second.parents == ((first.hash, "dependency"),)
        assert second.parents[0].role == "dependency"
        assert (second.version, second.kind, second.kind_number) == ("1.2.3-rc.1", "kind4096", 4096)
        assert second.media_type == "application/octet-stream"
        assert chain.append(note(b"one")) == first and len(chain) == 2
        assert note(b"one").hash() == first.hash
        for role in ("predecessor", "base", "evidence"):
            third = chain.append(note(role.encode(), parents=[(second, role)]))
            assert third.parents[0].role == role
    with blyan.Chain(tmp_path / "c", read_only=True) as again:
        assert bytes(again[second].payload) == b"two"
        with pytest.raises(exceptions.ReadOnlyError) as error:
            again.append(note())
        assert isinstance(error.value, PermissionError) and error.value.code == "read_only"


def test_writer(empty: blyan.Chain) -> None:
    with empty.writer() as writer:
        first = writer.append(note(b"1"))
        assert first.new_block and first.new_payload and first.hash in writer
        writer.append(note(b"2", parents=[first.hash]))
        assert len(empty) == 0
        with pytest.raises(exceptions.BusyError):  # it would wait for itself
            empty.append(note(b"3"))
        with pytest.raises(exceptions.BusyError):
            empty.writer()
        with pytest.raises(exceptions.BlockNotFoundError) as error:
            writer.append(note(b"4", parents=["1" * 64]))
        assert error.value.code == "missing_parent" and error.value.parent == "1" * 64
    assert len(empty) == 2
    with pytest.raises(exceptions.ClosedError):
        writer.append(note(b"5"))

    with pytest.raises(ZeroDivisionError):
        with empty.writer() as writer:
            writer.append(note(b"6"))
            1 / 0
    assert len(empty) == 2
    writer = empty.writer()
    writer.append(note(b"7"))
    writer.rollback()
    assert len(empty) == 2
    for end in (blyan.Writer.commit, blyan.Writer.rollback):
        with empty.writer() as writer:
            end(writer)
    dropped = empty.writer()
    dropped.append(note(b"8"))
    del dropped
    empty.append(note(b"9"))
    assert len(empty) == 3


def test_one_writer_at_a_time_waits_for_the_other(empty: blyan.Chain) -> None:
    writer = empty.writer()
    appended = threading.Event()

    def other() -> None:
        empty.append(note(b"other"))
        appended.set()

    thread = threading.Thread(target=other)
    thread.start()
    writer.append(note(b"mine"))
    assert not appended.wait(0.05)
    writer.commit()
    thread.join()
    assert len(empty) == 2


def test_who_waits_for_a_writer_of_a_chain_that_is_closed_gets_none(empty: blyan.Chain) -> None:
    first = empty.writer()
    refused = threading.Event()

    def other() -> None:
        with pytest.raises(exceptions.ClosedError):
            empty.writer()
        refused.set()

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    assert not refused.wait(0.05)
    empty.close()
    assert refused.wait(60)
    with pytest.raises(exceptions.ClosedError):
        first.append(note(b"late"))


def test_a_writer_is_the_threads_that_used_it_last(empty: blyan.Chain) -> None:
    # It stayed the first one's: another one that went on with it waited for itself.
    writer = empty.writer()
    used = threading.Event()

    def other() -> None:
        writer.append(note(b"1"))
        with pytest.raises(exceptions.BusyError):
            empty.append(note(b"2"))
        used.set()
        writer.commit()

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    assert used.wait(60)
    empty.append(note(b"3"))
    thread.join()
    assert len(empty) == 2


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"name": "Upper"}, exceptions.RefusedBlockError),
        ({"name": ""}, exceptions.RefusedBlockError),
        ({"name": "x" * 129}, exceptions.RefusedBlockError),
        ({"version": "1.0"}, ValueError),
        ({"version": "1.0.0+build"}, exceptions.RefusedBlockError),
        ({"kind": "nonsense"}, ValueError),
        ({"kind": -1}, ValueError),
        ({"kind": 65536}, ValueError),
        ({"lane": "C"}, ValueError),
        ({"lane": 1}, TypeError),
        ({"payload": "text"}, TypeError),
        ({"payload": 5}, TypeError),
        ({"parents": ["zz"]}, exceptions.HashError),
        ({"parents": [("0" * 64, "friend")]}, ValueError),
        ({"parents": [b"short"]}, ValueError),
        ({"name": "\ud800"}, ValueError),
        ({"media_type": "a b"}, exceptions.RefusedBlockError),
        ({"lane": "A", "kind": "spec", "payload": b"{}"}, exceptions.RefusedBlockError),
        ({"lane": "B", "kind": "expert", "name": "layer0.expert0"}, exceptions.RefusedBlockError),
    ],
)
def test_refused_drafts(empty: blyan.Chain, fields: dict[str, object], error: type[Exception]) -> None:
    given = {"lane": "D", "kind": 4096, "name": "note", "payload": b"x", **fields}
    with pytest.raises(error):
        empty.append(blyan.Draft(**given))  # type: ignore[arg-type]
    assert len(empty) == 0


def test_lookups_that_fail(chain: blyan.Chain) -> None:
    with pytest.raises(KeyError) as error:
        chain["00" * 32]
    assert isinstance(error.value, exceptions.BlockNotFoundError)
    assert error.value.code == "not_found" and error.value.block == "00" * 32
    assert str(error.value).startswith("there is no block 0000")
    assert chain.get("00" * 32) is None and chain.get("00" * 32, 7) == 7
    for wrong in ("", "ab", "G" * 64, "AB" * 32, "\ud800" * 64, b"", b"\0" * 31):
        with pytest.raises(ValueError):
            chain.block(wrong)
    for wrong_type in (None, 7, 1.5, [], object()):
        with pytest.raises(TypeError):
            chain.block(wrong_type)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        error.value.nonsense


def test_signatures(copy: blyan.Chain) -> None:
    block = next(iter(copy))
    record = copy.sign(block, bytes(range(32)), time_ms=5)
    assert record == blyan.SignatureRecord.sign(bytes(range(32)), block, 5)
    later = blyan.SignatureRecord.sign(bytes(range(32)), block)
    assert later.time_ms > 1_700_000_000_000
    copy.add_signature(block, later)
    assert copy.signatures(block) == [record, later]
    forged = blyan.SignatureRecord(record.public_key, 6, record.signature)
    assert not forged.verifies(block) and record.verifies(block)
    with pytest.raises(exceptions.RefusedBlockError):
        copy.add_signature(block, forged)
    for key in (b"short", "x" * 32, None):
        with pytest.raises((ValueError, TypeError)):
            copy.sign(block, key)  # type: ignore[arg-type]


def test_closing(tmp_path: Path) -> None:
    chain = blyan.Chain(tmp_path / "c")
    block = chain.append(note(b"held" * 2000))
    weights = blyan.import_checkpoint(chain, MODEL)
    payload = block.payload
    view = next(chain.blocks(kind="expert")).tensors["gate_proj.weight"]
    kept = bytes(view)
    walk = iter(chain)
    next(walk)
    writer = chain.writer()
    with pytest.raises(exceptions.ChainLockedError):
        blyan.Chain(tmp_path / "c")
    chain.close()
    chain.close()
    assert chain.closed and "closed" in repr(chain) and "closed" in chain._repr_html_()
    for use in (
        lambda: len(chain),
        lambda: chain[block],
        lambda: next(walk),
        lambda: block.payload,
        lambda: chain.__enter__(),
        lambda: writer.commit(),
        lambda: blyan.MoEModelManager(chain),
    ):
        with pytest.raises(exceptions.ClosedError):
            use()
    # Nothing holds the lock any more, although views, an iterator and a writer are alive.
    with blyan.Chain(tmp_path / "c") as again:
        assert weights in again
        assert bytes(payload) == b"held" * 2000 and bytes(view) == kept
    assert bytes(view) == kept


def test_a_writer_whose_chain_is_closed_says_so(tmp_path: Path) -> None:
    # It ended as one that was committed by hand, and what it held was lost without a word.
    chain = blyan.Chain(tmp_path / "c")
    with pytest.raises(exceptions.ClosedError):
        with chain.writer() as writer:
            writer.append(note(b"lost"))
            chain.close()
    with blyan.Chain(tmp_path / "c") as again:
        assert len(again) == 0


def test_opening_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        blyan.Chain(tmp_path / "nothing", read_only=True)
    assert isinstance(error.value, exceptions.ChainNotFoundError)
    assert error.value.filename == str(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError):
        blyan.Chain(tmp_path / "file" / "chain")
    with pytest.raises((TypeError, ValueError)):
        blyan.Chain(5)  # type: ignore[arg-type]
    with pytest.raises(OSError):
        blyan.Chain("\0")
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "index.redb").write_bytes(os.urandom(8192))
    with pytest.raises(exceptions.DamagedIndexError):
        blyan.Chain(tmp_path / "junk")


def test_paths(tmp_path: Path) -> None:
    for place in (str(tmp_path / "a"), tmp_path / "b", tmp_path / "ü 漢 🙂"):
        with blyan.Chain(place) as chain:
            assert chain.path == Path(place) and chain.writable and chain
    with blyan.Chain.in_memory() as chain:
        assert chain.path is None
    assert chain.closed


def test_verify_finds_damage_and_goes_on(copy: blyan.Chain) -> None:
    assert copy.verify().ok and copy.verify(full=True).bad == []
    assert copy.path is not None
    victims = [b for b in copy.blocks(kind="expert")][:2]
    for block, damage in zip(victims, (lambda d: d[:-1], lambda d: d[:-1] + bytes([d[-1] ^ 1]))):
        file = payload_file(copy.path, block.payload_hash)
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(damage(data))
    assert copy.verify().ok
    report = copy.verify(full=True)
    assert not report.ok and {block for block, _ in report.bad} == {b.hash for b in victims}
    assert {bad.damage for bad in report.bad} == {"payload_length", "payload_mismatch"}
    bad = report.bad[0]
    assert (bad.block, bad.reason) == tuple(bad) and bad.name in {b.name for b in victims}
    with pytest.raises(exceptions.DamagedBlockError) as error:
        victims[0].tensors
    assert error.value.block == victims[0].hash and error.value.damage.startswith("payload")
    # Importing the content again repairs it.
    assert blyan.import_checkpoint(copy, MODEL).report.payload_bytes_new > 0  # type: ignore[union-attr]
    assert copy.verify(full=True).ok


def test_progress_reports(copy: blyan.Chain) -> None:
    seen: list[blyan.VerifyProgress] = []
    copy.verify(full=True, progress=seen.append)
    assert seen and all(isinstance(p, blyan.VerifyProgress) for p in seen)
    assert seen[-1].blocks == seen[-1].total_blocks == 47
    assert seen[-1].payload_bytes == seen[-1].total_payload_bytes > 0
    assert copy.verify(progress=False).ok
    with pytest.raises(TypeError):
        copy.verify(progress=7)  # type: ignore[arg-type]


def test_cancelling(copy: blyan.Chain) -> None:
    token = blyan.CancelToken()
    assert not token.cancelled
    token.cancel()
    assert token.cancelled and "True" in repr(token)
    with pytest.raises(exceptions.Cancelled):
        copy.verify(full=True, cancel=token)
    with blyan.Chain.in_memory() as other:
        with pytest.raises(exceptions.Cancelled):
            blyan.import_checkpoint(other, MODEL, cancel=token)
        assert len(other) == 0


def test_a_callback_of_what_appends_cannot_append(empty: blyan.Chain) -> None:
    def progress(_: object) -> None:
        with pytest.raises(exceptions.BusyError):
            empty.append(note(b"3"))

    blyan.import_checkpoint(empty, MODEL, progress=progress)
    assert len(empty) == 47
    with empty.writer():
        pass


def test_a_callbacks_exception_comes_out_as_itself(empty: blyan.Chain, copy: blyan.Chain) -> None:
    class Mine(Exception):
        pass

    thrown = Mine("stop")

    def progress(_: object) -> None:
        raise thrown

    with pytest.raises(Mine) as error:
        blyan.import_checkpoint(empty, MODEL, progress=progress)
    assert error.value is thrown and len(empty) == 0
    with pytest.raises(Mine):
        copy.verify(full=True, progress=progress)
    blyan.import_checkpoint(empty, MODEL)
    assert len(empty) == 47


def test_reprs(copy: blyan.Chain, empty: blyan.Chain) -> None:
    with empty.writer() as writer:
        assert repr(writer) == "<Writer open>"
    assert repr(writer) == "<Writer ended>"
    block = next(copy.blocks(kind="expert"))
    assert "47 blocks" in repr(copy) and block.hash.short in repr(block) and "expert" in repr(block)
    assert str(copy.path) in copy._repr_html_() and block.hash in block._repr_html_()
    evil = empty.append(blyan.Draft("D", 4096, "note", b"x", media_type="<script>alert(1)</script>"))
    assert "<script>" not in evil._repr_html_()
    assert eval(repr(block.hash), {"BlockHash": blyan.BlockHash}) == block.hash
    assert json.dumps(block.hash) == f'"{block.hash}"'


def test_hash_values() -> None:
    value = blyan.BlockHash(bytes(range(32)))
    assert bytes(value) == value.digest == bytes(range(32)) and value == bytes(range(32)).hex()
    assert blyan.BlockHash(str(value)) == value and len({value, str(value)}) == 1
    for wrong in ("", "0" * 63, "0" * 65, "A" * 64, "é" * 64, b"x"):
        with pytest.raises(exceptions.HashError):
            blyan.BlockHash(wrong)
    with pytest.raises(TypeError):
        blyan.BlockHash(5)  # type: ignore[arg-type]


def test_many_threads_read_one_chain(chain: blyan.Chain) -> None:
    expected = [block.hash for block in chain]
    found: list[list[str]] = []

    def walk() -> None:
        found.append([block.hash for block in chain])

    threads = [threading.Thread(target=walk) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 6


def test_a_chain_stays_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        with blyan.Chain("data") as other:
            blyan.import_checkpoint(other, MODEL)
    monkeypatch.chdir(tmp_path / "here")
    with blyan.Chain("data") as chain:
        monkeypatch.chdir(tmp_path / "there")
        assert chain.verify(full=True).ok
        kept = chain.append(blyan.Draft("B", 24, "kept", b"weights"))
        assert payload_file(tmp_path / "here" / "data", kept.payload_hash).exists()
        chain.collect()
    with blyan.Chain(tmp_path / "there" / "data") as other:
        assert other.verify(full=True).ok


def test_what_a_callback_says_is_heard_before_the_next_step(empty: blyan.Chain) -> None:
    def raising(report: blyan.ImportProgress) -> None:
        if report.blocks == report.total_blocks:
            raise RuntimeError("at the last one")

    with pytest.raises(RuntimeError):
        blyan.import_checkpoint(empty, MODEL, progress=raising)
    assert len(empty) == 0
    token = blyan.CancelToken()
    with pytest.raises(exceptions.Cancelled):
        blyan.import_checkpoint(empty, MODEL, progress=lambda _: token.cancel(), cancel=token)
    assert len(empty) == 0
