#!/usr/bin/env python3
"""Owns the models that are measured: writes them as Hugging Face folders and as GGUF files.

    models.py hf SHAPE FOLDER             a synthetic model, safetensors in bf16
    models.py gguf SHAPE TYPE FILE        the same weights as Q8_0, F16 or Q4_0
    models.py config SHAPE FILE           its config.json alone
    models.py convert FOLDER TYPE FILE    a `llama` or `mixtral` folder as GGUF

Synthetic weights are N(0, 0.02), rounded to bf16, each tensor from a seed made of its name: both formats hold
the same model, neither needs the other, and no more than one layer is in memory. Needs numpy and gguf.
"""

import json
import os
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np

from shapes import RMS_NORM_EPS, ROPE_THETA, SEED, SHAPES, STD, Shape

GGML = gguf.GGMLQuantizationType
FILE_TYPES = {
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Rounds float32 to bfloat16 (ties to even), as its bits."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Synthetic:
    """Weights of a shape, made when they are asked for, under the names of Hugging Face's `olmoe`."""

    def __init__(self, shape: Shape):
        self.shape = shape

    def dims(self, name: str) -> tuple[int, ...]:
        s = self.shape
        if name.endswith("norm.weight"):
            return (s.hidden,)
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            return (s.vocab, s.hidden)
        if name.endswith("mlp.gate.weight"):
            return (s.experts, s.hidden)
        if ".experts." in name:
            return (s.hidden, s.expert_width) if "down_proj" in name else (s.expert_width, s.hidden)
        return (s.hidden, s.hidden)

    def bf16(self, name: str) -> np.ndarray:
        """The tensor's bf16 bits."""
        rng = np.random.Generator(np.random.SFC64([SEED, zlib.crc32(name.encode())]))
        values = rng.standard_normal(self.dims(name), dtype=np.float32)
        values *= np.float32(STD)
        if name.endswith("norm.weight"):
            values += np.float32(1)
        return to_bf16(values)

    def f32(self, name: str) -> np.ndarray:
        return from_bf16(self.bf16(name))


def layer_names(shape: Shape, layer: int) -> list[str]:
    prefix = f"model.layers.{layer}."
    names = [f"self_attn.{part}_proj" for part in "qkvo"] + ["self_attn.q_norm", "self_attn.k_norm"]
    names += ["input_layernorm", "post_attention_layernorm", "mlp.gate"]
    names += [f"mlp.experts.{e}.{part}_proj" for e in range(shape.experts) for part in ("gate", "up", "down")]
    return [f"{prefix}{name}.weight" for name in names]


OUTER = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]


def olmoe_config(shape: Shape) -> dict:
    return dict(
        architectures=["OlmoeForCausalLM"], model_type="olmoe", vocab_size=shape.vocab, hidden_size=shape.hidden,
        intermediate_size=shape.expert_width, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads, hidden_act="silu", max_position_embeddings=shape.context,
        rms_norm_eps=RMS_NORM_EPS, rope_theta=ROPE_THETA, num_experts=shape.experts,
        num_experts_per_tok=shape.experts_per_token, norm_topk_prob=False, clip_qkv=None, attention_bias=False,
        attention_dropout=0.0, tie_word_embeddings=False, use_cache=True, torch_dtype="bfloat16",
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip


def in_order(pool: ThreadPoolExecutor, make, items: list, ahead: int = 8):
    """Results of `make` in order, no more than `ahead` of them in memory."""
    waiting = []
    for item in items:
        waiting.append(pool.submit(make, item))
        if len(waiting) > ahead:
            yield waiting.pop(0).result()
    yield from (future.result() for future in waiting)


def write_hf(shape: Shape, folder: Path, pool: ThreadPoolExecutor) -> None:
    weights = Synthetic(shape)
    folder.mkdir(parents=True, exist_ok=True)
    shards = [layer_names(shape, layer) for layer in range(shape.layers)] + [OUTER]
    index, total = {}, 0
    for number, names in enumerate(shards, 1):
        header, end = {}, 0
        for name in names:
            dims = weights.dims(name)
            start, end = end, end + 2 * int(np.prod(dims))
            header[name] = dict(dtype="BF16", shape=list(dims), data_offsets=[start, end])
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        shard = f"model-{number:05}-of-{len(shards):05}.safetensors"
        with open(folder / shard, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for bits in in_order(pool, weights.bf16, names):
                bits.tofile(file)
        index |= dict.fromkeys(names, shard)
        total += end
    index = dict(metadata=dict(total_size=total), weight_map=index)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    # Last, so that a folder that was left unfinished is none.
    (folder / "config.json").write_text(json.dumps(olmoe_config(shape), indent=1))


class GgufFile:
    """Tensors are named first and written one at a time afterwards."""

    def __init__(self, path: Path, architecture: str, kind: str):
        self.path, self.kind = path, kind
        self.partial = path.with_name(path.name + ".part")
        self.writer = gguf.GGUFWriter(self.partial, architecture)
        self.writer.add_file_type(FILE_TYPES[kind])
        self.plan = []

    def type_of(self, name: str, dims: tuple[int, ...]) -> GGML:
        """As llama.cpp's converter has it: norms and routers stay F32."""
        return GGML.F32 if len(dims) == 1 or "ffn_gate_inp" in name else GGML[self.kind]

    def tensor(self, name: str, dims: tuple[int, ...], parts: list) -> None:
        """`parts`: functions that give the tensor's float32 rows, one after the other."""
        kind = self.type_of(name, dims)
        if kind in (GGML.F32, GGML.F16):
            dtype = np.dtype(np.float32 if kind == GGML.F32 else np.float16)
            bytes_len = int(np.prod(dims)) * dtype.itemsize
            self.writer.add_tensor_info(name, dims, dtype, bytes_len)
        else:
            byte_dims = gguf.quant_shape_to_byte_shape(dims, kind)
            self.writer.add_tensor_info(name, byte_dims, np.dtype(np.uint8), int(np.prod(byte_dims)), raw_dtype=kind)
        self.plan.append((kind, parts))

    def write(self, pool: ThreadPoolExecutor) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_ti_data_to_file()
        for kind, parts in self.plan:
            encode = lambda part, kind=kind: gguf.quants.quantize(np.ascontiguousarray(part()), kind)
            self.writer.write_tensor_data(np.concatenate([a.reshape(-1) for a in in_order(pool, encode, parts)]))
        self.writer.close()
        os.replace(self.partial, self.path)


def write_gguf(shape: Shape, kind: str, path: Path, pool: ThreadPoolExecutor) -> None:
    weights = Synthetic(shape)
    out = GgufFile(path, "olmoe", kind)
    w = out.writer
    w.add_name("synthetic")
    w.add_context_length(shape.context)
    w.add_embedding_length(shape.hidden)
    w.add_block_count(shape.layers)
    w.add_feed_forward_length(shape.expert_width)
    w.add_head_count(shape.heads)
    w.add_head_count_kv(shape.heads)
    w.add_layer_norm_rms_eps(RMS_NORM_EPS)
    w.add_rope_freq_base(ROPE_THETA)
    w.add_expert_count(shape.experts)
    w.add_expert_used_count(shape.experts_per_token)
    # Token ids go in and logits come out: no vocabulary is needed.
    w.add_tokenizer_model("no_vocab")
    w.add_vocab_size(shape.vocab)

    def put(name: str, source: str) -> None:
        dims = weights.dims(source)
        out.tensor(name, dims, [lambda: weights.f32(source)])

    put("token_embd.weight", OUTER[0])
    for layer in range(shape.layers):
        block, prefix = f"blk.{layer}.", f"model.layers.{layer}."
        put(block + "attn_norm.weight", prefix + "input_layernorm.weight")
        for part, source in (("q", "q"), ("k", "k"), ("v", "v"), ("output", "o")):
            put(f"{block}attn_{part}.weight", f"{prefix}self_attn.{source}_proj.weight")
        put(block + "attn_q_norm.weight", prefix + "self_attn.q_norm.weight")
        put(block + "attn_k_norm.weight", prefix + "self_attn.k_norm.weight")
        put(block + "ffn_norm.weight", prefix + "post_attention_layernorm.weight")
        put(block + "ffn_gate_inp.weight", prefix + "mlp.gate.weight")
        for part in ("gate", "up", "down"):
            names = [f"{prefix}mlp.experts.{e}.{part}_proj.weight" for e in range(shape.experts)]
            parts = [lambda name=name: weights.f32(name) for name in names]
            out.tensor(f"{block}ffn_{part}_exps.weight", (shape.experts, *weights.dims(names[0])), parts)
    put("output_norm.weight", OUTER[1])
    put("output.weight", OUTER[2])
    out.write(pool)


class SafetensorsFolder:
    """The tensors of a folder with one bf16 file, as float32."""

    def __init__(self, folder: Path):
        self.file = folder / "model.safetensors"
        with open(self.file, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self.header = json.loads(file.read(length))
        self.start = 8 + length

    def f32(self, name: str) -> np.ndarray:
        entry = self.header[name]
        if entry["dtype"] != "BF16":
            sys.exit(f"{name} is {entry['dtype']}: only BF16 is converted")
        begin, end = entry["data_offsets"]
        bits = np.fromfile(self.file, np.uint16, (end - begin) // 2, offset=self.start + begin)
        return from_bf16(bits).reshape(entry["shape"])


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """The rotary row order of llama.cpp's `llama` architecture."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def convert(folder: Path, kind: str, path: Path, pool: ThreadPoolExecutor) -> None:
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] not in ("llama", "mixtral") or not config["tie_word_embeddings"]:
        sys.exit(f"{folder}: only llama and mixtral with tied embeddings are converted")
    weights = SafetensorsFolder(folder)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    experts = config.get("num_local_experts", 0)
    out = GgufFile(path, "llama", kind)
    w = out.writer
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(config["hidden_size"])
    w.add_block_count(config["num_hidden_layers"])
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_rope_dimension_count(config["head_dim"])
    w.add_key_length(config["head_dim"])
    w.add_value_length(config["head_dim"])
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_rope_freq_base(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(config["num_experts_per_tok"])
    w.add_tokenizer_model("no_vocab")
    w.add_vocab_size(config["vocab_size"])

    def put(name: str, sources: list[str], turn=lambda rows: rows) -> None:
        dims = tuple(weights.header[sources[0]]["shape"])
        dims = (len(sources), *dims) if "_exps" in name else dims
        out.tensor(name, dims, [lambda source=source: turn(weights.f32(source)) for source in sources])

    put("token_embd.weight", [OUTER[0]])
    for layer in range(config["num_hidden_layers"]):
        block, prefix = f"blk.{layer}.", f"model.layers.{layer}."
        put(block + "attn_norm.weight", [prefix + "input_layernorm.weight"])
        put(block + "attn_q.weight", [prefix + "self_attn.q_proj.weight"], lambda rows: permuted(rows, heads))
        put(block + "attn_k.weight", [prefix + "self_attn.k_proj.weight"], lambda rows: permuted(rows, kv_heads))
        put(block + "attn_v.weight", [prefix + "self_attn.v_proj.weight"])
        put(block + "attn_output.weight", [prefix + "self_attn.o_proj.weight"])
        put(block + "ffn_norm.weight", [prefix + "post_attention_layernorm.weight"])
        moe = prefix + "block_sparse_moe."
        if experts:
            put(block + "ffn_gate_inp.weight", [moe + "gate.weight"])
        for part, number in (("gate", 1), ("up", 3), ("down", 2)):
            if experts:
                put(f"{block}ffn_{part}_exps.weight", [f"{moe}experts.{e}.w{number}.weight" for e in range(experts)])
            else:
                put(f"{block}ffn_{part}.weight", [f"{prefix}mlp.{part}_proj.weight"])
    put("output_norm.weight", [OUTER[1]])
    out.write(pool)


def main() -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        match sys.argv[1:]:
            case ["hf", shape, folder] if shape in SHAPES:
                write_hf(SHAPES[shape], Path(folder), pool)
            case ["config", shape, path] if shape in SHAPES:
                Path(path).write_text(json.dumps(olmoe_config(SHAPES[shape]), indent=1))
            case ["gguf", shape, kind, path] if shape in SHAPES and kind in FILE_TYPES:
                write_gguf(SHAPES[shape], kind, Path(path), pool)
            case ["convert", folder, kind, path] if kind in FILE_TYPES:
                convert(Path(folder), kind, Path(path), pool)
            case _:
                sys.exit(__doc__)


if __name__ == "__main__":
    main()
