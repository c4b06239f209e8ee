"""Releases, names, lineage, comparison, growth, bundles and collection."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODEL, payload_file

import blyan
from blyan import exceptions

SLOT = "layer0.expert1"


def changed(chain: blyan.Chain, slot: str = SLOT, factor: float = 2.0) -> blyan.Block:
    """A block that takes the place of the one in a slot of the only model, its weights times a factor."""
    pinned = chain.snapshot().slots[slot]
    before = chain.block(pinned.block)
    tensors = {}
    for name, view in before.tensors.items():
        wide = (np.asarray(view).astype(np.uint32) << 16).view(np.float32) * np.float32(factor)
        bits = (wide.view(np.uint32) >> 16).astype(np.uint16)
        tensors[name] = (view.dtype, list(view.shape), bits.tobytes())
    spec = chain.snapshot().spec_block
    major, minor, patch = before.version.split(".")
    draft = blyan.Draft(
        "B", before.kind, slot, blyan.write_tensors(tensors), f"{major}.{minor}.{int(patch) + 1}",
        [spec, (before.hash, "predecessor")],
    )  # fmt: skip
    return chain.append(draft)


def test_releases_have_names(copy: blyan.Chain) -> None:
    model = blyan.find_model(copy, "latest")
    first = blyan.release(copy, model, "tiny", "1.0.0")
    assert blyan.release(copy, model, "tiny", "1.0.0") == first
    with pytest.raises(exceptions.HistoryError) as refused:
        other = copy.snapshot().with_block(changed(copy)).publish()
        blyan.release(copy, other, "tiny", "1.0.0")
    assert refused.value.code == "release_exists" and refused.value.model == model
    assert isinstance(refused.value, ValueError)
    second = blyan.release(copy, other, "tiny", "1.0.1")
    entries = blyan.releases(copy)
    assert [(entry.name, entry.version) for entry in entries] == [("tiny", "1.0.1"), ("tiny", "1.0.0")]
    assert entries[0] == blyan.ReleaseEntry(second.hash, "tiny", "1.0.1", other.hash, first.hash)
    assert entries[1].predecessor is None and pickle.loads(pickle.dumps(entries)) == entries
    assert blyan.find_model(copy, "tiny") == blyan.find_model(copy, "latest") == other.hash
    assert blyan.find_model(copy, "tiny@1.0.0") == blyan.find_model(copy, model[:12]) == model
    assert blyan.find_block(copy, "tiny@1.0.0") == first.hash
    assert blyan.find_block(copy, SLOT) != blyan.find_block(copy, SLOT, of="tiny@1.0.0")
    with pytest.raises(KeyError) as missing:
        blyan.find_model(copy, "nobody")
    assert (missing.value.code, missing.value.name) == ("unknown_name", "nobody")  # type: ignore[attr-defined]
    with pytest.raises(exceptions.OptionError):
        blyan.release(copy, other, "tiny", "one")


def test_a_model_opens_by_its_name_and_with_an_overlay(copy: blyan.Chain) -> None:
    model = blyan.find_model(copy, "latest")
    blyan.release(copy, model, "tiny", "1.0.0")
    assert copy.snapshot("tiny") == blyan.Snapshot.of_model(copy, "tiny@1.0.0")
    candidate = changed(copy)
    length = len(copy)
    with blyan.MoEModelManager(copy, "tiny@1.0.0", persist_usage=False) as plain:
        assert plain.model == model
    with blyan.MoEModelManager(copy, "latest", overlay=[candidate], persist_usage=False) as tried:
        assert tried.snapshot == copy.snapshot().with_blocks([candidate])
        assert tried.snapshot.slots[SLOT].block == candidate.hash and len(copy) == length
        assert pickle.loads(pickle.dumps(tried)).snapshot == tried.snapshot
        receipt = tried.generate("In the beginning", max_tokens=4).receipt
    with pytest.raises(exceptions.ReplayError):
        blyan.replay(copy, receipt)
    for below in (None, model, "tiny"):
        assert blyan.replay(copy, receipt, model=below, overlay=[candidate])
    assert receipt.uses(copy, overlay=[candidate]) and not receipt.uses(copy)
    for arguments in [{"model": "tiny@9.9.9"}, {"overlay": [candidate, candidate]}]:
        with pytest.raises(exceptions.ModelError) as refused:
            blyan.MoEModelManager(copy, persist_usage=False, **arguments)  # type: ignore[arg-type]
    assert refused.value.code == "overlaid_twice"


def test_a_comparison_measures_as_numpy_does(copy: blyan.Chain) -> None:
    before = copy.snapshot()
    after = before.with_block(changed(copy))
    seen: list[blyan.CompareProgress] = []
    diff = before.compare(after, distances=True, progress=seen.append)
    assert seen == [blyan.CompareProgress(1, 1)]
    assert (diff.before, diff.after) == (before.root, after.root) and diff.before_spec == diff.after_spec
    (slot,) = diff.slots
    assert slot.slot == SLOT and slot.after == after.slots[SLOT] and not slot.same_payload
    assert diff.new_payload_bytes == after.slots[SLOT].payload_bytes
    tensors = copy.block(before.slots[SLOT].block).tensors
    assert [tensor.name for tensor in slot.tensors] == sorted(tensors)
    for tensor in slot.tensors:
        # Twice the weights are as far from them as they are from 0.
        values = tensors[tensor.name].to_f32().astype(np.float64)
        assert tensor.before == tensor.after == ("BF16", values.shape)
        assert tensor.distance is not None
        assert tensor.distance.relative_norm == 1.0 and tensor.distance.max_abs == abs(values).max()
        assert tensor.distance.norm == pytest.approx(np.sqrt((values**2).sum()), rel=1e-12)
    assert before.compare(after).slots[0].tensors == []
    assert diff.loss is None
    tokens = list(range(40))
    seen.clear()
    measured = before.compare(after, tokens=tokens, window=8, progress=seen.append)
    losses = [blyan.evolve.evaluate(copy, model, tokens, window=8).loss for model in (before, after)]
    assert measured.loss == blyan.LossDiff(*losses, 39) and losses[0] != losses[1]
    assert [type(report).__name__ for report in (seen[0], seen[-1])] == ["CompareProgress", "EvaluateProgress"]
    with pytest.raises(blyan.exceptions.OptionError):
        before.compare(after, tokens=[1])
    assert pickle.loads(pickle.dumps(diff)) == diff
    with pytest.raises(ZeroDivisionError):
        before.compare(after, progress=lambda _: 1 / 0)


def test_lineage_and_rollback(copy: blyan.Chain) -> None:
    first = copy.snapshot()
    candidate = changed(copy)
    second = first.with_block(candidate).publish()
    assert second.version == "1.0.1"
    assert blyan.lineage(copy, second) == [second, copy.block(first.base or "")]
    assert [block.hash for block in blyan.lineage(copy, candidate)] == [candidate.hash, first.slots[SLOT].block]
    back = blyan.rollback(copy, second, first.base or "", "it was worse")
    assert copy.snapshot() == first and copy.snapshot("latest").base == back.hash
    assert [block.version for block in blyan.lineage(copy, back)] == ["1.0.2", "1.0.1", "1.0.0"]
    with pytest.raises(exceptions.HistoryError) as refused:
        blyan.rollback(copy, first.base or "", second, "time travel")
    assert (refused.value.code, refused.value.model) == ("not_in_history", second.hash)


def test_an_expert_is_added(copy: blyan.Chain) -> None:
    base = copy.snapshot()
    count = base.spec["layers"][0]["feed_forward"]["num_experts"]
    expert = bytes(copy.block(base.slots[SLOT].block).payload)
    view = copy.block(base.slots["layer0.router"].block).tensors
    (name,) = view
    rows, columns = view[name].shape
    grown = np.concatenate([np.asarray(view[name]), np.asarray(view[name])[:1]])
    router = blyan.write_tensors({name: (view[name].dtype, [rows + 1, columns], grown.tobytes())})
    with pytest.raises(exceptions.HistoryError) as refused:
        blyan.grow(copy, base, [blyan.LayerGrowth(0, [], router)])
    assert refused.value.code == "not_growing" and refused.value.layer == 0
    snapshot = blyan.grow(copy, base, [blyan.LayerGrowth(0, [expert], router)])
    assert f"layer0.expert{count}" in snapshot.slots and len(snapshot.slots) == len(base.slots) + 1
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot
    with blyan.MoEModelManager(copy, snapshot, persist_usage=False) as tried:
        assert pickle.loads(pickle.dumps(tried)).snapshot == snapshot
    published = snapshot.publish()
    assert published.version == "1.1.0"
    with blyan.MoEModelManager(copy, "latest", persist_usage=False) as model:
        assert len(model.generate("And", max_tokens=2).tokens) == 2
    # Back to the smaller one is another architecture: the reason stays in the chain.
    blyan.rollback(copy, published, base.base or "", "too large")
    assert [b'"too large"' in bytes(block.payload) for block in copy.blocks(kind="migration")] == [True]


def test_a_migration(copy: blyan.Chain) -> None:
    first = blyan.find_model(copy, "latest")
    other = blyan.import_checkpoint(copy, MODEL, dtype="int8")
    with pytest.raises(LookupError) as several:
        blyan.find_model(copy, "latest")
    assert several.value.code == "many_models"  # type: ignore[attr-defined]
    last = blyan.migrate(copy, first, other, "smaller")
    assert [block.hash for block in blyan.lineage(copy, last)][-1] == first


def test_a_bundle_goes_from_chain_to_chain(copy: blyan.Chain, tmp_path: Path) -> None:
    copy.sign(copy.snapshot().base or "", bytes(range(32)), time_ms=7)
    file = tmp_path / "all.bundle"
    seen: list[blyan.BundleProgress] = []
    report = copy.bundle(file, progress=seen.append)
    assert report.blocks == len(copy) == seen[-1].blocks == seen[-1].total_blocks
    assert (report.signatures, report.bytes) == (1, file.stat().st_size)
    stream = io.BytesIO()
    assert copy.bundle(stream) == report and stream.getvalue() == file.read_bytes()
    with blyan.Chain.in_memory() as other:
        taken = other.unbundle(str(file), progress=seen.append)
        assert taken == blyan.UnbundleReport(len(copy), 0, 1, taken.payload_bytes_new, copy.root())
        again = other.unbundle(io.BytesIO(stream.getvalue()))
        assert (again.blocks_new, again.blocks_known, again.payload_bytes_new) == (0, len(copy), 0)
        # What is new goes alone; without the rest it is refused, and the rest is named.
        candidate = changed(copy)
        update = io.BytesIO()
        assert copy.bundle(update, known=other.tips()).blocks == 1
        assert other.unbundle(io.BytesIO(update.getvalue())).root == copy.root()
        with blyan.Chain.in_memory() as empty:
            with pytest.raises(exceptions.InvalidBundleError) as refused:
                empty.unbundle(io.BytesIO(update.getvalue()))
            assert refused.value.code == "missing_parents" and isinstance(refused.value, ValueError)
            assert set(refused.value.blocks) == {parent.hash for parent in candidate.parents}
            assert len(empty) == 0
    with pytest.raises(KeyError):
        copy.bundle(io.BytesIO(), blocks=["00" * 32])


def test_a_bad_bundle_changes_nothing(copy: blyan.Chain, empty: blyan.Chain, tmp_path: Path) -> None:
    stream = io.BytesIO()
    copy.bundle(stream)
    whole = stream.getvalue()
    for bytes_, code in [
        (b"", "bundle_truncated"),
        (b"no bundle at all", "not_a_bundle"),
        (whole[: len(whole) // 2], "bundle_truncated"),
        (whole + b"!", "bundle_trailing"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "bundle_checksum"),
    ]:
        with pytest.raises(exceptions.InvalidBundleError) as refused:
            empty.unbundle(io.BytesIO(bytes_))
        assert refused.value.code == code
        assert len(empty) == 0
    with pytest.raises(exceptions.InvalidBundleError) as refused:
        empty.unbundle(io.BytesIO(whole), max_payload_bytes=1000)
    assert refused.value.code == "payload_too_long" and refused.value.limit_bytes == 1000
    with pytest.raises(FileNotFoundError) as missing:
        empty.unbundle(tmp_path / "nothing")
    assert isinstance(missing.value, exceptions.BundleError) and missing.value.filename is not None


def test_streams_fail_as_themselves(copy: blyan.Chain, empty: blyan.Chain) -> None:
    class Full:
        def write(self, data: bytes) -> int:
            raise BlockingIOError("full")

    class Short(io.RawIOBase):
        """Takes and gives a few bytes at once, as a socket may."""

        def __init__(self) -> None:
            self.bytes = bytearray()

        def write(self, data: Any) -> int:
            part = bytes(data[:100_001])
            self.bytes += part
            return len(part)

        def read(self, size: int = -1) -> bytes:
            part = bytes(self.bytes[: min(size, 99_999)])
            del self.bytes[: len(part)]
            return part

    class Silent:
        """Takes everything and says nothing."""

        def __init__(self) -> None:
            self.bytes = bytearray()

        def write(self, data: bytes) -> None:
            self.bytes += data

    class Agreeing:
        def write(self, data: bytes) -> bool:
            return True

    with pytest.raises(BlockingIOError, match="full"):
        copy.bundle(Full())
    silent = Silent()
    copy.bundle(silent)
    expected = io.BytesIO()
    copy.bundle(expected)
    assert bytes(silent.bytes) == expected.getvalue()
    with pytest.raises(TypeError, match="bool"):
        copy.bundle(Agreeing())
    # A raw file that does not block says nothing when it took nothing.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with open(reader, "rb"), open(writer, "wb", buffering=0) as pipe:
        with pytest.raises(BlockingIOError, match="wait"):
            copy.bundle(pipe)
    # It has nothing to read either, until somebody writes.
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with open(reader, "rb", buffering=0) as pipe, open(writer, "wb"):
        with pytest.raises(BlockingIOError, match="wait"):
            empty.unbundle(pipe)
    for kind in (bytearray, memoryview):

        class Other(io.BytesIO):
            def read(self, size: int | None = -1) -> Any:
                return kind(super().read(size))

        with blyan.Chain.in_memory() as chain:
            assert chain.unbundle(Other(expected.getvalue())).root == copy.root()
    with pytest.raises(TypeError):
        copy.bundle(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        empty.unbundle(io.StringIO("text"))  # type: ignore[arg-type]
    short = Short()
    copy.bundle(short)
    assert empty.unbundle(short).root == copy.root()
    cancel = blyan.CancelToken()
    cancel.cancel()
    with pytest.raises(exceptions.Cancelled):
        copy.bundle(io.BytesIO(), cancel=cancel)


def test_collection_leaves_the_blocks(copy: blyan.Chain) -> None:
    assert copy.collect(dry_run=True).payloads == 0
    candidate = changed(copy)
    planned = copy.collect(dry_run=True)
    assert planned.blocks == [candidate.hash] and planned.payload_bytes == candidate.payload_bytes
    assert copy.collect(roots=[candidate, copy.snapshot().base or ""]).payloads == 0
    assert len(bytes(candidate.payload)) == candidate.payload_bytes
    backup = io.BytesIO()
    copy.bundle(backup, blocks=[candidate], ancestors=False)
    assert copy.collect() == planned and candidate in copy
    with pytest.raises(exceptions.PayloadCollectedError) as gone:
        copy.block(candidate).payload  # noqa: B018
    assert (gone.value.block, gone.value.payload) == (candidate.hash, candidate.payload_hash)
    report = copy.verify(full=True)
    assert report.ok and report.collected == [candidate.hash] and copy.verify().collected == []
    assert isinstance(report.collected[0], blyan.BlockHash) and pickle.loads(pickle.dumps(report)) == report
    assert copy.unbundle(io.BytesIO(backup.getvalue())).payload_bytes_new == candidate.payload_bytes
    assert len(bytes(copy.block(candidate).payload)) == candidate.payload_bytes
    assert copy.verify(full=True).collected == []
    assert pickle.loads(pickle.dumps(planned)) == planned
    with pytest.raises(KeyError):
        copy.collect(roots=["00" * 32], dry_run=True)


def test_a_delta_is_merged_to_the_sum_that_anybody_gets(copy: blyan.Chain) -> None:
    base = copy.block(copy.snapshot().slots[SLOT].block)
    before = (np.asarray(base.tensors["up_proj.weight"]).astype(np.uint32) << 16).view(np.float32)
    rng = np.random.default_rng(5)
    a = rng.normal(size=(2, before.shape[1])).astype("f4")
    b = rng.normal(scale=1e-3, size=(before.shape[0], 2)).astype("f4")
    payload = blyan.write_tensors({"up_proj.lora_A.weight": a, "up_proj.lora_B.weight": b})
    delta = blyan.append_delta(copy, base, payload)
    assert (delta.kind, delta.name) == ("delta", SLOT) and delta == blyan.append_delta(copy, base, bytearray(payload))
    length = len(copy)
    promised = blyan.merged_hash(copy, delta)
    assert len(copy) == length
    merged = blyan.merge_delta(copy, delta)
    assert merged.payload_hash == promised and (merged.name, merged.version) == (SLOT, "1.0.1")
    assert blyan.apply_delta(base.payload, payload) == bytes(merged.payload)
    for whole, part in ((base.payload, b"no payload"), (payload, payload)):
        with pytest.raises(ValueError):
            blyan.apply_delta(whole, part)
    # docs/numerics.md, Merging a delta: rank by rank with one rounding each, then to the nearest bf16.
    total = np.zeros_like(before)
    for r in range(2):
        total = (b[:, r : r + 1].astype("f8") * a[r].astype("f8") + total).astype("f4")
    bits = (before + total).view(np.uint32)
    expected = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    found = np.asarray(merged.tensors["up_proj.weight"])
    # A sum in double precision is rounded twice, an ulp beside the fused one in rare places.
    assert (np.abs(found.astype(int) - expected) <= 1).all() and (found == expected).mean() > 0.999
    assert bytes(merged.tensors["down_proj.weight"]) == bytes(base.tensors["down_proj.weight"])
    with blyan.MoEModelManager(copy, overlay=[merged], persist_usage=False) as tried:
        assert tried.snapshot.slots[SLOT].block == merged.hash
    assert copy.path is not None
    file = payload_file(copy.path, merged.payload_hash)
    kept = file.read_bytes()
    assert blyan.restore_merged(copy, merged) is False
    copy.close()
    file.unlink()
    # Another handle: this one still has the payload mapped.
    with blyan.Chain(copy.path) as again:
        assert bytes(blyan.merged_payload(again, merged)) == kept and not file.exists()
        assert blyan.restore_merged(again, merged) is True and file.read_bytes() == kept
        for call in (blyan.merge_delta, blyan.merged_hash):
            with pytest.raises(exceptions.DeltaError) as refused:
                call(again, base)
            assert (refused.value.code, refused.value.block) == ("not_a_delta", base.hash)
        with pytest.raises(exceptions.DeltaError) as refused:
            blyan.append_delta(again, delta, payload)
        assert refused.value.code == "no_base"
        nothing = blyan.write_tensors({"up_proj.lora_A.weight": a})
        length = len(again)
        with pytest.raises(exceptions.BlyanError):
            blyan.append_delta(again, base, nothing)
        assert len(again) == length


def test_a_release_is_named_by_its_whole_hash_as_well(copy: blyan.Chain) -> None:
    base = copy.snapshot()
    release = blyan.release(copy, base.base or "", "tiny", "1.0.0")
    for name in (release, str(release.hash), bytes(release.hash), release.hash[:12], "tiny"):
        assert copy.snapshot(name) == base
        with blyan.MoEModelManager(copy, name, persist_usage=False) as model:
            assert model.model == base.base
