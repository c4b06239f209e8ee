"""Owns what is measured: models, pairs of blyan and a peer, cases. Plain Python, read by the entry and the report."""

from dataclasses import dataclass, replace
from pathlib import Path

from shapes import SHAPES, Shape


@dataclass(frozen=True)
class Case:
    """One program run, whose words are the same for every peer."""

    name: str
    what: str
    words: tuple[str, ...]
    turns: int = 3
    # Whether there are peers to compare with.
    peers: bool = True
    discards_first: bool = False

    def arguments(self, place: Path) -> list:
        return [self.words[0], place, *self.words[1:]]

    def rounds(self, wanted: int | None) -> int:
        return wanted or self.turns

    def once(self) -> "Case":
        """One turn, and one sequence in it."""
        words = (*self.words[:-1], "1") if self.words[0] == "sequence" else self.words
        return replace(self, words=words, turns=1)


# What a peer's variants are compared by, and whether more or less is better.
METRICS = dict(prefill_tokens_per_s=1, decode_tokens_per_s=1, batch_tokens_per_s=1, first_token_s=-1)


def sequence(prompt: int, new: int, repeat: int) -> tuple[str, ...]:
    return ("sequence", "--prompt", str(prompt), "--new", str(new), "--repeat", str(repeat))


CASES = {
    case.name: case
    for case in (
        Case("short", "16 tokens of prompt, 64 written", sequence(16, 64, 3)),
        Case("ctx512", "512 tokens of prompt, 32 written", sequence(512, 32, 3)),
        Case("ctx4096", "4096 tokens of prompt, 32 written", sequence(4096, 32, 1), turns=2),
        Case(
            "batch16",
            "16 sequences, 16 tokens of prompt and 32 written each",
            ("batch", "--prompt", "16", "--new", "32", "--sequences", "16", "--repeat", "2"),
        ),
        Case("open", "open to first token, every touched payload verified", ("open",), turns=5, discards_first=True),
        Case("open-trust", "open to first token, an earlier verification trusted", ("open", "--trust"), 5, True, True),
        Case("verify", "first open of every block", ("verify",), turns=1, peers=False),
        Case("logits", "logits after 16 tokens", ("logits",), turns=1),
    )
}
SPEED = ("short", "ctx512", "ctx4096", "batch16")
# A minute each even in the small shape, so not in the short mode.
SLOW_WITH_TORCH = ("ctx4096", "batch16")


@dataclass(frozen=True)
class Pair:
    """A dtype of blyan and what it is compared with: a peer, or blyan itself with another dtype."""

    dtype: str
    peer: str = ""
    peer_type: str = ""
    cases: tuple[str, ...] = SPEED

    @property
    def name(self) -> str:
        return f"{self.dtype} and {self.peer} {self.peer_type}" if self.peer else self.dtype

    @property
    def source_name(self) -> str:
        """Behind the model's name, what the peer's chain or file of weights is called."""
        return self.peer_type if self.peer == "blyan" else f"{self.peer_type}.gguf"

    def variants(self) -> list[tuple[str, ...]]:
        """Ways to run the peer, of which the fastest counts."""
        if self.peer == "llama.cpp":
            # With AMX, llama-cpp-python 0.3.36 crashes on repacked weights of a mixture of experts.
            return [("--flash", "1"), ("--flash", "0"), ("--flash", "1", "--repack", "0")]
        if self.peer == "torch":
            # `batched_mm` copies the experts of every token: tens of GB in a long prefill, which it is refused.
            return [("--experts", name) for name in ("grouped_mm", "eager", "batched_mm")]
        return [()]


@dataclass(frozen=True)
class Model:
    name: str
    pairs: tuple[Pair, ...]
    shape: Shape | None = None
    # A checkpoint folder of the repository; a synthetic model has none.
    folder: str = ""
    how_to_get: str = ""


PAIRS = (
    Pair("int8", "llama.cpp", "Q8_0", (*SPEED, "open", "open-trust", "verify", "logits")),
    Pair("int8", "torch", "BF16", SPEED),
    Pair("int8", "candle", "Q8_0", ("short", "ctx512")),
    Pair("fp8", "blyan", "int8", ("short", "ctx512")),
    Pair("int4", "llama.cpp", "Q4_0", ("short", "ctx512", "batch16", "logits")),
    Pair("int4", "candle", "Q4_0", ("short",)),
    Pair("bf16", "llama.cpp", "F16", ("short", "ctx512", "logits")),
    Pair("f16", "llama.cpp", "F16", ("short", "ctx512")),
)
SMALL_PAIRS = (
    Pair("bf16", "llama.cpp", "F16", ("short", "logits")),
    Pair("int8", "llama.cpp", "Q8_0", ("short", "logits")),
)
MODELS = {
    model.name: model
    for model in (
        Model("small", PAIRS, SHAPES["small"]),
        Model("olmoe", PAIRS, SHAPES["olmoe"]),
        Model("tiny-kjv-moe", SMALL_PAIRS, folder="models/tiny-kjv-moe"),
        Model("smollm2", SMALL_PAIRS, folder="target/smollm2/models/dense", how_to_get="`cargo xtask smollm2` makes it"),
    )
}
# What the short mode measures.
SHORT_MODELS = ["small"]
