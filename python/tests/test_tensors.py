"""Tensors against numpy and the safetensors package reading the same payload files."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy
import pytest
from conftest import FIXTURES, MODEL, payload_file
from safetensors import safe_open
from safetensors.numpy import load_file

import blyan
from blyan import exceptions


def bf16_to_f32(raw: numpy.ndarray) -> numpy.ndarray:
    return (raw.astype(numpy.uint32) << 16).view(numpy.float32)


def test_views_are_what_safetensors_reads(place: Path, chain: blyan.Chain) -> None:
    count = 0
    for block in chain.blocks(lane="B"):
        if block.media_type != "application/vnd.safetensors":
            with pytest.raises(exceptions.TensorError):
                block.tensors
            continue
        file = payload_file(place, block.payload_hash)
        with safe_open(file, framework="numpy") as reference:
            assert sorted(reference.keys()) == sorted(block.tensors) == block.tensors.keys()
            for name, view in block.tensors.items():
                slice_ = reference.get_slice(name)
                assert list(view.shape) == slice_.get_shape() and view.dtype == slice_.get_dtype()
                count += 1
        raw = file.read_bytes()
        header = int.from_bytes(raw[:8], "little")
        import json

        entries = json.loads(raw[8 : 8 + header])
        for name, view in block.tensors.items():
            start, end = entries[name]["data_offsets"]
            assert bytes(view) == raw[8 + header + start : 8 + header + end]
            array = numpy.asarray(view)
            assert array.shape == view.shape and array.nbytes == view.nbytes == end - start
            assert array.ndim == view.ndim and array.size == view.size and array.itemsize == view.itemsize
            assert array.tobytes() == bytes(view)
    assert count > 100


@pytest.mark.parametrize("dtype", ["f16", "bf16", "int8", "fp8", None])
def test_each_dtype(dtype: str | None) -> None:
    with blyan.Chain.in_memory() as chain:
        blyan.import_checkpoint(chain, FIXTURES / "olmoe", dtype)
        tensors = next(chain.blocks(kind="expert")).tensors
        view = tensors["gate_proj.weight"]
        array = numpy.asarray(view)
        expected = {
            "f16": ("F16", numpy.float16),
            "bf16": ("BF16", numpy.uint16),
            "int8": ("I8", numpy.int8),
            "fp8": ("F8_E4M3", numpy.uint8),
            None: (view.dtype, array.dtype.type),
        }[dtype]
        assert (view.dtype, array.dtype.type) == expected
        widened = view.to_f32()
        assert widened.dtype == numpy.float32 and widened.shape == view.shape and widened.flags.writeable
        if view.dtype in ("F32", "F16", "I8"):
            assert (widened == array.astype(numpy.float32)).all()
        elif view.dtype == "BF16":
            assert (widened == bf16_to_f32(array)).all()
        assert view.get_f32(5) == widened.flat[5]
        with pytest.raises(IndexError):
            view.get_f32(view.size)
        scale = tensors.scale("gate_proj.weight")
        if dtype in ("int8", "fp8"):
            assert scale is not None and scale.dtype == "F32" and scale.shape == (view.shape[0], 1)
        else:
            assert scale is None


def test_numpy_shares_the_mapped_memory(chain: blyan.Chain) -> None:
    block = next(chain.blocks(kind="expert"))
    view = block.tensors["gate_proj.weight"]
    one, two = numpy.asarray(view), numpy.asarray(block.tensors["gate_proj.weight"])
    assert not one.flags.owndata and not one.flags.writeable
    assert one.__array_interface__["data"] == two.__array_interface__["data"]
    assert numpy.shares_memory(one, numpy.asarray(block.payload))
    assert block.payload.mapped
    address = one.__array_interface__["data"][0]
    maps = Path("/proc/self/maps").read_text().splitlines()
    ranges = [line.split() for line in maps if block.payload_hash in line]
    inside = [r for r in ranges if int(r[0].split("-")[0], 16) <= address < int(r[0].split("-")[1], 16)]
    assert inside and inside[0][1].startswith("r--")
    with pytest.raises(ValueError):
        one[0, 0] = 1
    with pytest.raises(ValueError):
        one.flags.writeable = True
    memory = memoryview(view)
    assert memory.readonly and memory.format == "H" and memory.shape == view.shape and memory.c_contiguous
    with pytest.raises(TypeError):
        memory[0, 0] = 1
    # A consumer that insists on writing is refused, not lied to.
    with pytest.raises((BufferError, TypeError)):
        (b"" and 0) or __import__("ctypes").c_char.from_buffer(view)


def test_buffers_are_what_was_asked_for(chain: blyan.Chain) -> None:
    # A request for column-major memory was once answered with row-major memory.
    class PyBuffer(ctypes.Structure):
        _fields_ = [
            ("buf", ctypes.c_void_p),
            ("obj", ctypes.c_void_p),
            ("len", ctypes.c_ssize_t),
            ("itemsize", ctypes.c_ssize_t),
            ("readonly", ctypes.c_int),
            ("ndim", ctypes.c_int),
            ("rest", ctypes.c_void_p * 5),
        ]

    def get(exporter: object, flags: int) -> int:
        buffer = PyBuffer()
        place = ctypes.byref(buffer)
        ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(exporter), place, flags)
        ctypes.pythonapi.PyBuffer_Release(place)
        return buffer.len

    simple, writable, strides, row_major, column_major, either = 0, 1, 0x18, 0x38, 0x58, 0x98
    matrix = next(chain.blocks(kind="expert")).tensors["up_proj.weight"]
    vector = blyan.TensorBlock(blyan.write_tensors({"v": ("F32", [3], bytes(12))}))["v"]
    row = blyan.TensorBlock(blyan.write_tensors({"r": ("F32", [1, 3], bytes(12))}))["r"]
    nothing = blyan.TensorBlock(blyan.write_tensors({"n": ("F32", [2, 0, 3], b"")}))["n"]
    for view in (matrix, vector, row, nothing):
        for flags in (simple, strides, row_major, either):
            assert get(view, flags) == view.nbytes
        with pytest.raises(BufferError):
            get(view, writable)
    for view in (vector, row, nothing):
        assert get(view, column_major) == view.nbytes
    with pytest.raises(BufferError):
        get(matrix, column_major)


def test_views_outlive_everything(tmp_path: Path) -> None:
    chain = blyan.Chain(tmp_path / "c")
    blyan.import_checkpoint(chain, MODEL)
    block = next(chain.blocks(kind="expert"))
    array = numpy.asarray(block.tensors["up_proj.weight"])
    expected = array.copy()
    chain.close()
    del block, chain
    gc.collect()
    for file in (tmp_path / "c" / "payloads").rglob("*"):
        if file.is_file():
            file.unlink()
    assert (array == expected).all()
    inner = array.base
    del array
    gc.collect()
    assert numpy.asarray(inner).sum() == expected.sum()


def test_nothing_leaks(chain: blyan.Chain) -> None:
    hash = next(chain.blocks(kind="expert")).hash
    maps = lambda: Path("/proc/self/maps").read_text().count("\n")  # noqa: E731
    import sys

    for _ in range(50):
        numpy.asarray(chain[hash].tensors["up_proj.weight"])
    before, references = maps(), sys.getrefcount(None)
    for _ in range(500):
        numpy.asarray(chain[hash].tensors["up_proj.weight"])
        try:
            chain["0" * 64]
        except KeyError:
            pass
    gc.collect()
    assert maps() - before < 50
    assert abs(sys.getrefcount(None) - references) < 5000

    class Owner:
        pass

    owner = Owner()
    alive = weakref.ref(owner)
    callback = lambda _, owner=owner: None  # noqa: E731
    chain.verify(progress=callback)
    del owner, callback
    gc.collect()
    assert alive() is None


def test_from_dlpack(chain: blyan.Chain) -> None:
    with blyan.Chain.in_memory() as other:
        blyan.import_checkpoint(other, FIXTURES / "olmoe", "int8")
        tensors = next(other.blocks(kind="expert")).tensors
        for name in ("gate_proj.weight", "gate_proj.weight_scale"):
            view = tensors[name]
            array = numpy.from_dlpack(view)
            assert (array == numpy.asarray(view)).all() and array.dtype == numpy.asarray(view).dtype
            assert not array.flags.writeable
            assert numpy.shares_memory(array, numpy.asarray(view))
            copy = numpy.from_dlpack(view, copy=True)
            assert (copy == array).all() and not numpy.shares_memory(copy, array)
            assert array.strides == numpy.asarray(view).strides
    view = next(chain.blocks(kind="expert")).tensors["up_proj.weight"]
    assert view.__dlpack_device__() == (1, 0)
    capsule = view.__dlpack__(max_version=(1, 0))
    assert '"dltensor_versioned"' in repr(capsule)
    assert '"dltensor"' in repr(view.__dlpack__())
    del capsule  # never consumed: freed by its own destructor
    for options in ({"stream": 1}, {"dl_device": (2, 0)}, {"copy": False}):
        with pytest.raises(BufferError):
            view.__dlpack__(**options)  # type: ignore[arg-type]
    del view
    gc.collect()
    assert (array >= -127).all()


def test_torch(chain: blyan.Chain) -> None:
    torch = pytest.importorskip("torch")
    view = next(chain.blocks(kind="expert")).tensors["up_proj.weight"]
    tensor = torch.from_dlpack(view)
    assert tensor.dtype == torch.bfloat16 and tuple(tensor.shape) == view.shape
    assert (tensor.float().numpy() == view.to_f32()).all()
    with blyan.Chain.in_memory() as other:
        blyan.import_checkpoint(other, FIXTURES / "olmoe", "fp8")
        view = next(other.blocks(kind="expert")).tensors["up_proj.weight"]
        assert view.dtype == "F8_E4M3"
        tensor = torch.from_dlpack(view)
        assert tensor.dtype == torch.uint8
        assert (tensor.view(torch.float8_e4m3fn).float().numpy() == view.to_f32()).all()


def test_writing_payloads() -> None:
    rng = numpy.random.default_rng(0)
    given = {
        "a": rng.standard_normal((3, 5)).astype(numpy.float32),
        "b": rng.standard_normal((4,)).astype(numpy.float16),
        "c": ("BF16", [2, 2], numpy.arange(4, dtype=numpy.uint16)),
    }
    payload = blyan.write_tensors(given)
    assert payload == blyan.write_tensors(dict(reversed(given.items())))
    tensors = blyan.TensorBlock(payload)
    assert dict(tensors).keys() == given.keys() and len(tensors) == 3
    assert (numpy.asarray(tensors["a"]) == given["a"]).all()
    assert (numpy.asarray(tensors["b"]) == given["b"]).all()
    assert tensors["c"].dtype == "BF16" and (numpy.asarray(tensors["c"]).ravel() == range(4)).all()
    again = blyan.write_tensors({"a": tensors["a"], "b": tensors["b"], "c": tensors["c"]})
    assert again == payload
    scalar = blyan.TensorBlock(blyan.write_tensors({"s": ("F32", [], b"\0\0\x80?"), "e": ("F32", [0, 3], b"")}))
    assert numpy.asarray(scalar["s"]) == 1.0 and numpy.asarray(scalar["s"]).shape == ()
    assert numpy.asarray(scalar["e"]).shape == (0, 3)


def test_payloads_are_read_by_safetensors(tmp_path: Path) -> None:
    array = numpy.arange(12, dtype=numpy.float32).reshape(3, 4)
    (tmp_path / "x.safetensors").write_bytes(blyan.write_tensors({"w": array}))
    assert (load_file(tmp_path / "x.safetensors")["w"] == array).all()


@pytest.mark.parametrize("dtype", ["int8", "fp8"])
def test_quantizing(dtype: str) -> None:
    array = numpy.random.default_rng(1).standard_normal((6, 32)).astype(numpy.float32)
    values, scales = blyan.quantize(dtype, array)
    tensors = blyan.TensorBlock(blyan.write_tensors({"w": values, "w_scale": scales}))
    scale = tensors.scale("w")
    assert scale is not None
    restored = tensors["w"].to_f32() * numpy.asarray(scale)
    limit = numpy.abs(array).max(1, keepdims=True)
    assert (numpy.abs(restored - array) <= limit * (0.5 / 127 + 1e-6 if dtype == "int8" else 1 / 16)).all()


def test_converting() -> None:
    array = numpy.random.default_rng(2).standard_normal((3, 5)).astype(numpy.float32)
    bits = array.view(numpy.uint32)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)
    short = blyan.convert("bf16", array)
    assert short == ("BF16", [3, 5], nearest.tobytes())
    assert blyan.convert("f32", short) == ("F32", [3, 5], bf16_to_f32(nearest).tobytes())
    assert blyan.convert("f16", array)[2] == array.astype(numpy.float16).tobytes()
    tensors = blyan.TensorBlock(blyan.write_tensors({"w": short}))
    assert blyan.convert("BF16", tensors["w"]) == short
    huge, infinite = numpy.full(2, 1e6, numpy.float32), numpy.full(2, numpy.inf, numpy.float32)
    for dtype, given in [("int8", array), ("f16", huge), ("bf16", infinite)]:
        with pytest.raises(exceptions.TensorError):
            blyan.convert(dtype, given)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\0" * 8, b"\xff" * 64, (2**63).to_bytes(8, "little"), b"\2\0\0\0\0\0\0\0{}x", b"\2\0\0\0\0\0\0\0[]"],
)
def test_payloads_that_are_none(payload: bytes) -> None:
    with pytest.raises(exceptions.TensorError):
        blyan.TensorBlock(payload)


def test_wrong_tensors() -> None:
    for given, error in [
        ({"x": numpy.zeros(2)}, TypeError),  # float64
        ({"x": "text"}, TypeError),
        ({"x": ("F32", [2], b"1234")}, exceptions.TensorError),
        ({"x": ("F32", [-1], b"")}, ValueError),
        ({"x": ("F64", [1], b"")}, ValueError),
        ({"x": ("F32", [2**62, 2**62], b"")}, ValueError),
        ({"x": ("F32", [2**48], b"")}, exceptions.TensorError),
        ({"x": ("F32", [1] * 9, b"1234")}, exceptions.TensorError),
        ({"__metadata__": numpy.zeros(2, numpy.float32)}, exceptions.TensorError),
        ({5: numpy.zeros(2, numpy.float32)}, TypeError),
        (None, TypeError),
    ]:
        with pytest.raises(error):
            blyan.write_tensors(given)  # type: ignore[arg-type]
    tensors = blyan.TensorBlock(blyan.write_tensors({"x": numpy.zeros(2, numpy.float32)}))
    with pytest.raises(KeyError) as missing:
        tensors["y"]
    assert missing.value.present == ["x"] and missing.value.tensor == "y"
    assert tensors.get("y") is None and "y" not in tensors and 5 not in tensors
    with pytest.raises(exceptions.TensorError):
        blyan.quantize("int8", numpy.full((2, 2), numpy.nan, numpy.float32))


def test_views_compare() -> None:
    one = blyan.TensorBlock(blyan.write_tensors({"x": numpy.zeros(2, numpy.float32)}))
    two = blyan.TensorBlock(blyan.write_tensors({"x": numpy.zeros(2, numpy.float32)}))
    three = blyan.TensorBlock(blyan.write_tensors({"x": numpy.ones(2, numpy.float32)}))
    assert one["x"] == two["x"] and hash(one["x"]) == hash(two["x"]) and one["x"] != three["x"]
    assert one == two and hash(one) == hash(two) and one != three and one != {"x": one["x"]}
    assert isinstance(one, Mapping)
    assert one["x"] != 5 and "F32" in repr(one["x"]) and "x" in repr(one)


def test_buffers_of_every_layout_are_read(empty: blyan.Chain) -> None:
    cube = numpy.arange(2 * 3 * 4, dtype="f4").reshape(2, 3, 4)
    given = [cube, cube.transpose(), cube[::-1, :, ::2], cube[:, 1:2, ::-3], cube[:0], cube[..., :0]]
    given += [numpy.asfortranarray(cube), numpy.broadcast_to(cube[0, 0], (5, 4)), numpy.float32(3.5).reshape(())]
    for array in given:
        tensors = blyan.TensorBlock(blyan.write_tensors({"w": array}))
        assert tensors["w"].shape == array.shape and bytes(tensors["w"]) == array.tobytes()
    raw = bytes(cube)
    for buffer in (raw, bytearray(raw), memoryview(raw), (ctypes.c_char * len(raw)).from_buffer_copy(raw)):
        written = blyan.write_tensors({"w": ("F32", cube.shape, buffer)})
        assert written == blyan.write_tensors({"w": cube}) and type(written) is bytes
    for nothing in (b"", bytearray(), memoryview(b"")):
        assert bytes(empty.append(blyan.Draft("D", 4096, "note", nothing)).payload) == b""
    with pytest.raises(TypeError):
        blyan.write_tensors({"w": ("F32", [1], "text")})


def test_everything_can_be_referred_to_weakly(chain: blyan.Chain) -> None:
    model = blyan.MoEModelManager(chain, persist_usage=False)
    block = next(chain.blocks(kind="expert"))
    generation = model.generate("In the beginning", max_tokens=1)
    things = [chain, model, block, block.payload, block.tensors, block.tensors["up_proj.weight"], iter(chain)]
    things += [chain.snapshot(), generation.receipt, model.usage, model.session(), blyan.CancelToken()]
    things += [model.stream("In the beginning", max_tokens=1)]
    references = [weakref.ref(thing) for thing in things]
    assert [reference() for reference in references] == things
