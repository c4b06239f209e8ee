#!/usr/bin/env python3
"""Make the GGUF files of blyan-core/tests/gguf with the `gguf` package, from the fixture folders of
blyan-core/tests/fixtures, and what must come out of them:

    pip install gguf numpy safetensors tokenizers sentencepiece protobuf regex
    make_gguf_fixtures.py REPOSITORY [NAME ...]

models      one file per folder, tensors in BF16 as they are there, names by the package's own table, rows of
            queries and keys in llama.cpp's order: importing it has to give the folder's model
types       every quantized type, most bytes at random, with their values by the package's `dequantize`
tokenizers  byte-level BPE under every pre-tokenizer that is supported, with the tokens of a page by a plain
            implementation below; SentencePiece's with those that it gives itself
corpus      small files for fuzz/corpus/gguf, byte by byte: some valid, most hostile
"""
import io, json, os, re, struct, sys, unicodedata
import gguf, numpy as np, regex, sentencepiece, tokenizers
from gguf import GGMLQuantizationType as Type
from sentencepiece import sentencepiece_model_pb2
from safetensors.numpy import save_file

repository = sys.argv[1]
fixtures = f"{repository}/blyan-core/tests/fixtures"
out = f"{repository}/blyan-core/tests/gguf"
os.makedirs(out, exist_ok=True)


def tensors_of(folder):
    """name -> (shape, uint16 of bf16), of all shards."""
    tensors = {}
    for name in sorted(os.listdir(folder)):
        if not re.fullmatch(r"model.*\.safetensors", name):
            continue
        raw = open(f"{folder}/{name}", "rb").read()
        n = int.from_bytes(raw[:8], "little")
        for key, entry in json.loads(raw[8 : 8 + n]).items():
            if key == "__metadata__":
                continue
            assert entry["dtype"] == "BF16", key
            a, b = entry["data_offsets"]
            tensors[key] = np.frombuffer(raw[8 + n + a : 8 + n + b], np.uint16).reshape(entry["shape"])
    return tensors


def permuted(w, heads):
    """The order of rows in which llama.cpp rotates; as its converter does it."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def wide(w):
    return (w.astype(np.uint32) << 16).view(np.float32)


def add_bf16(writer, name, w):
    w = np.ascontiguousarray(w)
    writer.add_tensor(name, w.view(np.uint8).reshape(*w.shape[:-1], -1), raw_dtype=Type.BF16)


ARCH = {"llama": "llama", "mixtral": "llama", "olmoe": "olmoe", "qwen2": "qwen2", "qwen3": "qwen3",
        "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe"}


def hyperparameters(w, c, kind, tensors):
    """The keys that llama.cpp's converter writes, and those that it writes for such values only."""
    heads = c["num_attention_heads"]
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(c["num_key_value_heads"])
    head_dim = c.get("head_dim") or c["hidden_size"] // heads
    if c.get("head_dim"):
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    w.add_rope_dimension_count(head_dim)
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    rope = c["rope_parameters"]
    w.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(rope["factor"])
    elif rope["rope_type"] == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(rope["factor"])
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    elif rope["rope_type"] == "llama3":
        freqs = 1.0 / (rope["rope_theta"] ** (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)))
        low, high, old = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
        factors = []
        for freq in freqs:
            wavelength = 2 * np.pi / freq
            if wavelength < old / high:
                factors.append(1)
            elif wavelength > old / low:
                factors.append(rope["factor"])
            else:
                smooth = (old / wavelength - low) / (high - low)
                factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
        w.add_tensor("rope_freqs.weight", np.array(factors, dtype=np.float32))
    experts = c.get("num_experts") or c.get("num_local_experts")
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(c["num_experts_per_tok"])
        if c.get("norm_topk_prob") is not None:
            w.add_expert_weights_norm(c["norm_topk_prob"])
        w.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)
    if c.get("moe_intermediate_size"):
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])
    if c.get("shared_expert_intermediate_size"):
        w.add_expert_shared_feed_forward_length(c["shared_expert_intermediate_size"])
    if c.get("sliding_window"):
        w.add_sliding_window(c["sliding_window"])
    if c.get("clip_qkv"):
        w.add_clamp_kqv(c["clip_qkv"])
    for key, add in (("bos_token_id", w.add_bos_token_id), ("eos_token_id", w.add_eos_token_id)):
        if c.get(key) is not None:
            add(c[key])


def model(folder, name=None, converter_types=False, stacked=True, split=0):
    c = json.load(open(f"{fixtures}/{folder}/config.json"))
    tensors = tensors_of(f"{fixtures}/{folder}")
    kind = c["model_type"]
    architecture = ARCH[kind]
    w = gguf.GGUFWriter(f"{out}/{name or folder}.gguf", architecture, split_max_tensors=split)
    w.add_type(gguf.GGUFType.MODEL)
    w.add_name(f"Fixture {folder}")
    hyperparameters(w, c, kind, tensors)
    table = gguf.get_tensor_name_map(
        {v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[architecture], c["num_hidden_layers"])
    # The package lists no dense layers among mixtures; their names are those of dense models.
    dense = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c["num_hidden_layers"])
    suffixes = (".weight", ".bias")
    experts = {}
    for key, tensor in tensors.items():
        found = re.fullmatch(r"(.*\.)(\d+)\.((?:gate|up|down)_proj|w[123])\.weight", key)
        if found and ".experts." in key:
            prefix, expert, part = found.groups()
            if kind == "mixtral":
                layer = re.search(r"layers\.(\d+)\.", key).group(1)
                merged = f"layers.{layer}.feed_forward.experts.{part}.weight"
            else:
                merged = f"{prefix}{part}.weight"
            experts.setdefault(merged, {})[int(expert)] = tensor
            continue
        if architecture == "llama" and re.search(r"\.q_proj\.", key):
            tensor = permuted(tensor, c["num_attention_heads"])
        if architecture == "llama" and re.search(r"\.k_proj\.", key):
            tensor = permuted(tensor, c["num_key_value_heads"])
        mapped = table.get_name(key, suffixes) or dense.get_name(key, suffixes)
        add(w, mapped, np.squeeze(tensor), converter_types)
    for merged, parts in experts.items():
        mapped = table.get_name(merged, (".weight",))
        if stacked:
            add(w, mapped, np.stack([parts[i] for i in range(len(parts))]), converter_types)
        else:
            for i, part in parts.items():
                add(w, mapped.replace("_exps", f".{i}"), part, converter_types)
    finish(w)


def add(w, name, tensor, converter_types):
    assert name is not None
    if converter_types and (tensor.ndim == 1 or name.endswith("ffn_gate_inp.weight")):
        w.add_tensor(name, wide(tensor))
    else:
        add_bf16(w, name, tensor)


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def tiny(name, architecture, vocab, hidden=8, head_dim=8, inner=8, context=64):
    """A writer of a model of one layer, without tensors."""
    w = gguf.GGUFWriter(f"{out}/{name}.gguf", architecture)
    w.add_context_length(context)
    w.add_embedding_length(hidden)
    w.add_block_count(1)
    w.add_feed_forward_length(inner)
    w.add_head_count(1)
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(vocab)
    return w


def shapes(vocab, hidden, head_dim, inner):
    return {"token_embd": (vocab, hidden), "blk.0.attn_norm": (hidden,), "blk.0.attn_q": (head_dim, hidden),
            "blk.0.attn_k": (head_dim, hidden), "blk.0.attn_v": (head_dim, hidden), "blk.0.attn_output": (hidden, head_dim),
            "blk.0.ffn_norm": (hidden,), "blk.0.ffn_gate": (inner, hidden), "blk.0.ffn_up": (inner, hidden),
            "blk.0.ffn_down": (hidden, inner), "output_norm": (hidden,), "output": (vocab, hidden)}


def types():
    """One file for each half of the types; a row is two or sixteen blocks."""
    rng = np.random.default_rng(7)
    quantized = [Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q4_K, Type.Q5_K, Type.Q6_K]
    places = ["token_embd", "blk.0.attn_q", "blk.0.attn_k", "blk.0.attn_v", "blk.0.ffn_gate", "blk.0.ffn_up", "output"]
    halves = {"d": [0], "dm": [0, 2]}
    for number in range(2):
        vocab, hidden, head_dim, inner = 6, 512, 4, 6
        w = tiny(f"types{number}", "llama", vocab, hidden, head_dim, inner)
        expected = {}
        for index, (name, shape) in enumerate(shapes(vocab, hidden, head_dim, inner).items()):
            if name not in places:
                plain = [np.float32, np.float16][index % 2]
                values = rng.standard_normal(shape).astype(plain)
                w.add_tensor(f"{name}.weight", values)
                expected[name] = values.astype(np.float32)
                continue
            kind = quantized[(places.index(name) + 4 * number) % len(quantized)]
            block, size = gguf.GGML_QUANT_SIZES[kind]
            raw = rng.integers(0, 256, (shape[0], hidden // block, size), dtype=np.uint8)
            # Scales of a size that weights have; everything else at random.
            at = {Type.Q6_K: [208], Type.Q8_0: [0], Type.Q4_0: [0], Type.Q5_0: [0]}.get(kind, [0, 2])
            for place in at:
                scale = (rng.standard_normal(raw.shape[:2]) * 0.02).astype(np.float16)
                raw[..., place : place + 2] = scale[..., None].view(np.uint8)
            raw = raw.reshape(shape[0], -1)
            values = gguf.dequantize(raw, kind)
            expected[name] = values
            if name in ("blk.0.attn_q", "blk.0.attn_k"):
                # The file has the rows in the other order.
                raw = permuted(raw, 1)
            w.add_tensor(f"{name}.weight", raw, raw_dtype=kind)
        finish(w)
        save_file({k: np.ascontiguousarray(v) for k, v in expected.items()}, f"{out}/types{number}.safetensors")


# --- Tokenizers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# Expressions one after the other, whether letters are composed, whether whole words are tokens.
PRE = {
    "gpt-2": ([GPT2], False, False),
    "olmo": ([GPT2], True, False),
    "smollm": ([r"\p{N}", GPT2], False, False),
    "llama-bpe": ([LLAMA3], False, True),
    "dbrx": ([LLAMA3], False, False),
    "qwen2": ([QWEN2], True, False),
    "deepseek-r1-qwen": ([QWEN2], False, False),
    "tekken": ([TEKKEN], False, True),
    "deepseek-coder": ([r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}"], False, False),
    "default": ([r"[\p{P}\$\+<=>\^~\|]+", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
                 r"\p{N}+", "[0-9][0-9][0-9]"], False, False),
}
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER = ["<think>", "   "]


def letters():
    """GPT-2's letter for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(rest)}


def split(pattern, parts):
    for part in parts:
        at = 0
        for match in regex.finditer(pattern, part):
            yield from filter(None, (part[at : match.start()], match.group()))
            at = match.end()
        if at < len(part):
            yield part[at:]


def bpe(word, ranks):
    word = list(word)
    while len(word) > 1:
        pairs = [(ranks.get(pair, 1 << 30), i) for i, pair in enumerate(zip(word, word[1:]))]
        rank, i = min(pairs)
        if rank == 1 << 30:
            break
        word[i : i + 2] = ["".join(word[i : i + 2])]
    return word


def encode(text, vocab, ranks, patterns, nfc, whole):
    """Byte-level BPE, as plainly as can be."""
    of_byte = letters()
    added = "|".join(regex.escape(t) for t in sorted(CONTROL + USER, key=len, reverse=True))
    ids = []
    for part in regex.split(f"({added})", text):
        if part in CONTROL + USER:
            ids.append(vocab[part])
            continue
        parts = [unicodedata.normalize("NFC", part) if nfc else part]
        for pattern in patterns:
            parts = list(split(pattern, parts))
        for word in filter(None, parts):
            word = "".join(of_byte[b] for b in word.encode())
            ids += [vocab[word]] if whole and word in vocab else [vocab[t] for t in bpe(word, ranks)]
    return ids


def fill(w, vocab):
    rng = np.random.default_rng(3)
    for name, shape in shapes(vocab, 8, 8, 8).items():
        if name != "output":
            w.add_tensor(f"{name}.weight", rng.standard_normal(shape).astype(np.float16))


def byte_level(page, corpus):
    t = tokenizers.Tokenizer(tokenizers.models.BPE())
    t.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.train_from_iterator([corpus, page], tokenizers.trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=sorted(letters().values()), show_progress=False))
    trained = json.loads(t.to_str())["model"]
    vocab = dict(trained["vocab"])
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in trained["merges"]]
    # A word that no merges lead to: only where whole words are tokens is it found.
    for extra in ["Ġquickly", *CONTROL, *USER]:
        vocab[extra] = len(vocab)
    tokens = [t for t, _ in sorted(vocab.items(), key=lambda entry: entry[1])] + [f"[PAD{len(vocab)}]"]
    ranks = {pair: i for i, pair in enumerate(merges)}
    kinds = [3 if t in CONTROL else 4 if t in USER else 5 if t.startswith("[PAD") else 1 for t in tokens]
    expected = {}
    for pre, (patterns, nfc, whole) in PRE.items():
        w = tiny(f"bpe-{pre}", "llama", len(tokens))
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre(pre)
        w.add_token_list(tokens)
        w.add_token_types(kinds)
        w.add_token_merges([" ".join(pair) for pair in merges])
        w.add_bos_token_id(vocab["<|im_start|>"])
        w.add_eos_token_id(vocab["<|im_end|>"])
        w.add_pad_token_id(vocab["<|endoftext|>"])
        w.add_add_bos_token(pre == "gpt-2")
        w.add_add_eos_token(pre == "gpt-2")
        if pre == "qwen2":
            w.add_chat_template([dict(name="default", template="{{ messages[0].content }}"),
                                 dict(name="tool_use", template="{{ tools | length }}")])
        else:
            w.add_chat_template("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}")
        fill(w, len(tokens))
        finish(w)
        expected[pre] = encode(page + " quickly", vocab, ranks, patterns, nfc, whole)
    return expected


def sentence_piece(page, corpus):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter((corpus + page).splitlines()), model_writer=model, vocab_size=900, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.98,
        split_digits=True, allow_whitespace_only_pieces=True, user_defined_symbols=["<think>"], minloglevel=2,
        num_threads=1)
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    expected = {}
    for name, prefix in (("spm", True), ("spm-no-prefix", False)):
        w = tiny(name, "llama", sp.vocab_size())
        w.add_tokenizer_model("llama")
        w.add_tokenizer_pre("default")
        kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 4 if sp.id_to_piece(i) == "<think>" else 1
        w.add_token_list([sp.id_to_piece(i) for i in range(sp.vocab_size())])
        w.add_token_scores([sp.get_score(i) for i in range(sp.vocab_size())])
        w.add_token_types([kind(i) for i in range(sp.vocab_size())])
        w.add_bos_token_id(sp.bos_id())
        w.add_eos_token_id(sp.eos_id())
        w.add_unk_token_id(sp.unk_id())
        if not prefix:
            w.add_add_space_prefix(False)
        fill(w, sp.vocab_size())
        finish(w)
        lines = [line for line in page.split("\n") if line and "<" not in line]
        if prefix:
            expected[name] = [[line, [sp.bos_id(), *sp.encode(line)]] for line in lines]
        else:
            changed = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
            changed.normalizer_spec.add_dummy_prefix = False
            bare = sentencepiece.SentencePieceProcessor(model_proto=changed.SerializeToString())
            expected[name] = [[line, [sp.bos_id(), *bare.encode(line)]] for line in lines]
    return expected


def tokenizer_fixtures():
    page = open(f"{repository}/blyan-core/tests/texts/mixed.txt", newline="").read()
    corpus = open(f"{repository}/docs/format.md").read()
    expected = dict(byte_level=byte_level(page, corpus), sentence_piece=sentence_piece(page, corpus))
    json.dump(expected, open(f"{out}/tokens.json", "w"), ensure_ascii=True, separators=(",", ":"))


def models():
    for folder in ["llama_bias", "llama_llama3", "mixtral_window", "olmoe_clip_qkv", "qwen2_moe_step2", "qwen2_odd",
                   "qwen3_odd", "qwen3_moe_mlp_only"]:
        model(folder)
    model("llama", "llama-as-converted", converter_types=True)
    model("mixtral_window", "mixtral-2023", stacked=False)
    model("qwen3_odd", "qwen3-split", split=14)


# --- Files that no writer makes

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
PACK = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q", I64: "<q",
        F64: "<d"}


def text(value):
    value = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(value)) + value


def packed(kind, value):
    if kind == STR:
        return text(value)
    if kind == ARR:
        inner, values = value
        return struct.pack("<IQ", inner, len(values)) + b"".join(packed(inner, v) for v in values)
    return struct.pack(PACK[kind], value)


class File:
    """Keys and tensors, to be changed before they are written."""

    def __init__(self):
        self.keys = {"general.architecture": (STR, "llama"), "llama.context_length": (U32, 16),
                     "llama.embedding_length": (U32, 8), "llama.block_count": (U32, 1),
                     "llama.feed_forward_length": (U32, 8), "llama.attention.head_count": (U32, 2),
                     "llama.attention.head_count_kv": (U32, 1), "llama.rope.dimension_count": (U32, 4),
                     "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5), "tokenizer.ggml.eos_token_id": (U32, 1)}
        shapes = {"token_embd": [8, 6], "blk.0.attn_norm": [8], "blk.0.attn_q": [8, 8], "blk.0.attn_k": [8, 4],
                  "blk.0.attn_v": [8, 4], "blk.0.attn_output": [8, 8], "blk.0.ffn_norm": [8], "blk.0.ffn_gate": [8, 8],
                  "blk.0.ffn_up": [8, 8], "blk.0.ffn_down": [8, 8], "output_norm": [8]}
        # name -> dimensions, type, bytes
        self.tensors = {f"{n}.weight": [d, 1, struct.pack("<e", 0.25) * int(np.prod(d))] for n, d in shapes.items()}
        self.head, self.version, self.more, self.align, self.shift = b"GGUF", 3, b"", 32, {}
        self.counts = None

    def bytes(self):
        keys = b"".join(text(k) + struct.pack("<I", t) + packed(t, v) for k, (t, v) in self.keys.items())
        infos, data = b"", b""
        for name, (dims, kind, raw) in self.tensors.items():
            infos += text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims)
            infos += struct.pack("<IQ", kind, self.shift.get(name, len(data)))
            data += raw + bytes(-len(raw) % self.align)
        counts = self.counts or (len(self.tensors), len(self.keys))
        head = self.head + struct.pack("<IQQ", self.version, *counts) + keys + self.more + infos
        return head + bytes(-len(head) % self.align) + data


def corpus():
    folder = f"{repository}/fuzz/corpus/gguf"
    os.makedirs(folder, exist_ok=True)
    made = {}

    def case(name, change):
        file = File()
        changed = change(file)
        made[name] = changed if isinstance(changed, bytes) else file.bytes()

    def key(name, label, kind, value):
        case(label, lambda f: f.keys.__setitem__(name, (kind, value)))

    def tensor(label, name="blk.0.ffn_up.weight", dims=None, kind=None, raw=None):
        def change(f):
            t = f.tensors[name]
            f.tensors[name] = [t[0] if dims is None else dims, t[1] if kind is None else kind, t[2] if raw is None else raw]
        case(label, change)

    def tokenizer(f, **changes):
        tokens = ["<s>", "</s>", "a", "b", "ab", "[PAD5]"]
        f.keys |= {"tokenizer.ggml.model": (STR, "gpt2"), "tokenizer.ggml.pre": (STR, "gpt-2"),
                   "tokenizer.ggml.tokens": (ARR, (STR, tokens)), "tokenizer.ggml.merges": (ARR, (STR, ["a b"])),
                   "tokenizer.ggml.token_type": (ARR, (I32, [3, 3, 1, 1, 1, 5]))}
        f.keys |= {f"tokenizer.ggml.{k}": v for k, v in changes.items()}

    case("valid-plain", lambda f: None)
    case("valid-version-2", lambda f: setattr(f, "version", 2))
    case("valid-aligned-to-64", lambda f: (setattr(f, "align", 64), f.keys.__setitem__("general.alignment", (U32, 64))))
    case("valid-tokenizer", tokenizer)
    case("valid-numbers-of-other-widths", lambda f: f.keys.update({
        "llama.block_count": (U8, 1), "llama.context_length": (I64, 16), "llama.rope.freq_base": (F64, 1e4),
        "llama.feed_forward_length": (ARR, (I32, [8]))}))
    case("valid-head", lambda f: f.tensors.__setitem__("output.weight", f.tensors["token_embd.weight"]))
    key("x.lists", "valid-lists-of-lists", ARR, (ARR, [(U8, [1, 2]), (STR, ["a"])]))
    case("valid-sentence-piece", lambda f: tokenizer(f, model=(STR, "llama"), scores=(ARR, (F32, [0, 0, -1, -2, -3, 0]))))

    plain = File().bytes()
    made["empty"], made["magic-alone"], made["zeros"] = b"", b"GGUF", bytes(64)
    for at in (6, 12, 23, 30, 60, 200, 500, 900, len(plain) - 20):
        made[f"cut-at-{at}"] = plain[:at]
    case("other-magic", lambda f: setattr(f, "head", b"GGML"))
    case("version-1", lambda f: setattr(f, "version", 1))
    case("version-4", lambda f: setattr(f, "version", 4))
    case("big-endian", lambda f: setattr(f, "version", 3 << 24))
    case("tensors-2-pow-63", lambda f: setattr(f, "counts", (1 << 63, 10)))
    case("keys-2-pow-63", lambda f: setattr(f, "counts", (11, 1 << 63)))
    case("keys-2-pow-19", lambda f: setattr(f, "counts", (11, 1 << 19)))
    case("one-key-less", lambda f: setattr(f, "counts", (11, 9)))
    extra = lambda f, b: (setattr(f, "more", b), setattr(f, "counts", (len(f.tensors), len(f.keys) + 1)))
    case("key-twice", lambda f: extra(f, text("llama.block_count") + struct.pack("<II", U32, 1)))
    case("key-empty", lambda f: extra(f, text("") + struct.pack("<II", U32, 1)))
    case("key-not-utf8", lambda f: extra(f, text(b"\xff\xfe") + struct.pack("<II", U32, 1)))
    case("key-of-2-pow-62-bytes", lambda f: extra(f, struct.pack("<Q", 1 << 62)))
    case("text-of-2-pow-64-bytes", lambda f: extra(f, text("x") + struct.pack("<IQ", STR, (1 << 64) - 1)))
    case("value-of-type-13", lambda f: extra(f, text("x") + struct.pack("<II", 13, 1)))
    case("list-of-type-99", lambda f: extra(f, text("x") + struct.pack("<IIQ", ARR, 99, 0)))
    case("list-of-2-pow-60", lambda f: extra(f, text("x") + struct.pack("<IIQ", ARR, U8, 1 << 60)))
    case("list-of-lists-of-2-pow-40", lambda f: extra(f, text("x") + struct.pack("<IIQ", ARR, ARR, 1 << 40)))
    case("lists-nested-deep", lambda f: extra(f, text("x") + struct.pack("<I", ARR) + struct.pack("<IQ", ARR, 1) * 4000))
    case("list-with-a-number-beyond-i64", lambda f: f.keys.update({"x": (ARR, (U64, [1 << 63]))}))
    key("x", "bool-of-2", BOOL, 2)
    for label, value in (("zero", 0), ("three", 3), ("2-pow-31", 1 << 31)):
        key("general.alignment", f"alignment-{label}", U32, value)
    key("general.alignment", "alignment-a-text", STR, "32")
    key("general.architecture", "architecture-unknown", STR, "gemma3")
    key("general.architecture", "architecture-a-number", U32, 1)
    case("architecture-missing", lambda f: f.keys.pop("general.architecture") and None)
    key("general.type", "an-adapter", STR, "adapter")
    key("general.quantization_version", "blocks-of-version-1", U32, 1)
    for missing in ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
                    "attention.layer_norm_rms_epsilon"):
        case(f"without-{missing.replace('_', '-').replace('.', '-')}",
             lambda f, missing=missing: f.keys.pop(f"llama.{missing}") and None)
    for name, label, kind, value in [
        ("block_count", "layers-zero", U32, 0), ("block_count", "layers-billions", U32, 4_000_000_000),
        ("block_count", "layers-negative", I32, -1), ("block_count", "layers-a-float", F32, 1.0),
        ("block_count", "layers-65536", U32, 65536), ("block_count", "layers-two", U32, 2),
        ("embedding_length", "hidden-other", U32, 16), ("embedding_length", "hidden-odd", U32, 7),
        ("attention.head_count", "heads-zero", U32, 0), ("attention.head_count", "heads-3", U32, 3),
        ("attention.head_count_kv", "kv-heads-zero", U32, 0),
        ("attention.head_count_kv", "kv-heads-of-two-layers", ARR, (I32, [1, 1])),
        ("attention.key_length", "head-dim-odd", U32, 3), ("attention.key_length", "head-dim-huge", U32, 1 << 24),
        ("attention.value_length", "values-of-another-width", U32, 8),
        ("attention.layer_norm_rms_epsilon", "eps-zero", F32, 0.0),
        ("attention.layer_norm_rms_epsilon", "eps-nan", F32, float("nan")),
        ("attention.causal", "not-causal", BOOL, 0), ("attention.scale", "attention-scale", F32, 0.5),
        ("logit_scale", "logit-scale", F32, 0.5), ("vocab_size", "vocab-other", U32, 7),
        ("rope.dimension_count", "rope-partial", U32, 2), ("rope.freq_base", "rope-base-zero", F32, 0.0),
        ("rope.freq_base", "rope-base-infinite", F32, float("inf")),
        ("rope.scaling.type", "rope-longrope", STR, "longrope"), ("rope.scaling.type", "rope-yarn-alone", STR, "yarn"),
        ("rope.scaling.attn_factor", "rope-attention-factor", F32, 2.0),
        ("expert_count", "experts-billions", U32, 4_000_000_000), ("expert_count", "experts-without-tensors", U32, 4),
        ("some_new_thing", "unknown-key", U32, 1)]:
        key(f"llama.{name}", label, kind, value)
    case("experts-sigmoid", lambda f: f.keys.update({"llama.expert_count": (U32, 2), "llama.expert_used_count": (U32, 1),
                                                      "llama.expert_gating_func": (U32, 2)}))
    key("split.count", "split-of-2-pow-40", U64, 1 << 40)
    key("split.count", "split-without-a-name", U16, 3)
    key("split.no", "split-second", U16, 1)
    tensor("type-q2-k", kind=10)
    tensor("type-2-pow-31", kind=1 << 31)
    tensor("dimension-zero", dims=[8, 0])
    tensor("dimension-2-pow-63", dims=[1 << 63, 8])
    tensor("dimensions-overflow", dims=[1 << 40, 1 << 40])
    tensor("dimensions-none", dims=[])
    tensor("dimensions-five", dims=[8, 8, 1, 1, 1])
    tensor("dimensions-swapped", dims=[64, 1])
    tensor("rows-of-half-a-block", kind=8)
    case("dimensions-of-2-pow-32", lambda f: f.more.__len__() or setattr(f, "tensors", f.tensors) or
         f.bytes().replace(text("blk.0.ffn_up.weight") + struct.pack("<I", 2), text("blk.0.ffn_up.weight") + struct.pack("<I", 1 << 31)))
    case("offset-odd", lambda f: f.shift.__setitem__("blk.0.ffn_up.weight", 33))
    case("offset-beyond", lambda f: f.shift.__setitem__("blk.0.ffn_up.weight", 1 << 20))
    case("offset-2-pow-63", lambda f: f.shift.__setitem__("blk.0.ffn_up.weight", 1 << 63))
    case("offset-largest", lambda f: f.shift.__setitem__("blk.0.ffn_up.weight", (1 << 64) - 32))
    case("tensors-overlap", lambda f: f.shift.__setitem__("blk.0.ffn_up.weight", 0))
    case("tensor-twice", lambda f: f.bytes().replace(text("blk.0.ffn_up.weight") + b"\2", text("blk.0.ffn_gate.weight"[:19]) + b"\2"))
    case("tensor-missing", lambda f: f.tensors.pop("blk.0.ffn_up.weight") and None)
    case("tensor-left-over", lambda f: f.tensors.__setitem__("blk.0.attn_sinks.weight", [[2], 0, bytes(8)]))
    case("tensor-of-a-layer-too-many", lambda f: f.tensors.__setitem__("blk.1.ffn_up.weight", f.tensors["blk.0.ffn_up.weight"]))
    case("rope-frequencies-odd", lambda f: f.tensors.__setitem__("rope_freqs.weight", [[2], 0, struct.pack("<2f", 7, 1)]))
    case("rope-frequencies-short", lambda f: f.tensors.__setitem__("rope_freqs.weight", [[1], 0, struct.pack("<f", 1)]))
    case("rope-frequencies-nan", lambda f: f.tensors.__setitem__("rope_freqs.weight", [[2], 0, struct.pack("<2f", 1, float("nan"))]))
    tensor("weight-infinite", raw=struct.pack("<e", float("inf")) * 64)
    tensor("weight-nan", raw=struct.pack("<e", float("nan")) * 64)

    def quantized(scale):
        def change(f):
            # Wide enough for a block: 32 columns.
            f.keys["llama.feed_forward_length"] = (U32, 32)
            for name in ("gate", "up"):
                f.tensors[f"blk.0.ffn_{name}.weight"] = [[8, 32], 1, struct.pack("<e", 0.25) * 256]
            f.tensors["blk.0.ffn_down.weight"] = [[32, 8], 8, (struct.pack("<e", scale) + b"\x7f" * 32) * 8]
        return change

    case("valid-q8-0", quantized(0.01))
    case("scale-beyond-f16", quantized(65504.0))
    case("scale-nan", quantized(float("nan")))
    for label, changes in [
        ("tokens-twice", dict(tokens=(ARR, (STR, ["<s>", "</s>", "a", "b", "ab", "a"])))),
        ("token-empty", dict(tokens=(ARR, (STR, ["<s>", "</s>", "a", "b", "ab", ""])))),
        ("tokens-of-numbers", dict(tokens=(ARR, (I32, [1, 2])))),
        ("token-types-short", dict(token_type=(ARR, (I32, [1])))),
        ("merge-of-nothing", dict(merges=(ARR, (STR, ["a b", "a c"])))),
        ("merge-of-one", dict(merges=(ARR, (STR, ["ab"])))),
        ("merge-empty", dict(merges=(ARR, (STR, [""])))),
        ("pre-unknown", dict(pre=(STR, "no-such-model"))),
        ("tokenizer-unknown", dict(model=(STR, "bert"))),
        ("tokenizer-key-unknown", dict(some_new_thing=(BOOL, 1))),
        ("space-prefix-of-bytes", dict(add_space_prefix=(BOOL, 1))),
        ("bos-beyond", dict(bos_token_id=(U32, 600))),
        ("scores-short", dict(model=(STR, "llama"), scores=(ARR, (F32, [0.0])))),
        ("scores-nan", dict(model=(STR, "llama"), scores=(ARR, (F32, [float("nan")] * 6)))),
    ]:
        case(label, lambda f, changes=changes: tokenizer(f, **changes))
    case("merges-missing", lambda f: (tokenizer(f), f.keys.pop("tokenizer.ggml.merges")) and None)
    for name in os.listdir(folder):
        os.remove(f"{folder}/{name}")
    for name, content in made.items():
        open(f"{folder}/{name}", "wb").write(content)
    print(len(made), "files")


chosen = sys.argv[2:] or ["models", "types", "tokenizer_fixtures", "corpus"]
for name in chosen:
    globals()[name]()
