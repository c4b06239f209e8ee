"""Plain values: hashes, reports, what a generation gives. They compare, hash and pickle by content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypeVar

from blyan.exceptions import HashError

if TYPE_CHECKING:
    from typing_extensions import Buffer as _Buffer

    from blyan._blyan import Block, Receipt

Lane: TypeAlias = Literal["A", "B", "D", "meta", "parameter", "dataset"]
Role: TypeAlias = Literal["dependency", "predecessor", "base", "evidence"]
FinishReason: TypeAlias = Literal["stop_token", "stop_string", "max_tokens", "context_full", "cancelled"]

_H = TypeVar("_H", bound="Hash")


class Hash(str):
    """32 bytes that name something, as 64 lowercase hexadecimal digits: a `str` that knows its bytes.

    >>> blyan.BlockHash("ab" * 32).digest[:2]
    b'\\xab\\xab'
    >>> blyan.BlockHash(bytes(32)).short
    '000000000000'
    """

    __slots__ = ()

    def __new__(cls: type[_H], value: str | bytes) -> _H:
        text = value.hex() if isinstance(value, (bytes, bytearray)) else value
        if not isinstance(text, str):
            raise TypeError(f"a hash is made from str or bytes, not {type(value).__name__}")
        if len(text) != 64 or not set(text) <= _DIGITS:
            error = HashError(f"a hash is 64 lowercase hexadecimal digits, got {text[:80]!r}")
            error.code = "hash"
            raise error
        return super().__new__(cls, text)

    @property
    def digest(self) -> bytes:
        """The 32 bytes."""
        return bytes.fromhex(self)

    @property
    def short(self) -> str:
        """The first 12 digits, for people."""
        return self[:12]

    def __bytes__(self) -> bytes:
        return self.digest

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __str__(self) -> str:
        return str.__str__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str.__str__(self),)


_DIGITS = frozenset("0123456789abcdef")


class BlockHash(Hash):
    """Names a block."""

    __slots__ = ()


class PayloadHash(Hash):
    """Names a payload: plain BLAKE3 of its bytes, what `b3sum` prints."""

    __slots__ = ()


class SnapshotRoot(Hash):
    """Names a whole model: its spec and the block of each slot."""

    __slots__ = ()


class ChainRoot(Hash):
    """Names the tips of a chain, and with them everything in it."""

    __slots__ = ()


class LogitsDigest(Hash):
    """Digest of the logits that a generation sampled from."""

    __slots__ = ()


class ReceiptHash(Hash):
    """Names a receipt."""

    __slots__ = ()


class Parent(NamedTuple):
    """A block that another one depends on, and what it is to it."""

    hash: BlockHash
    role: Role


@dataclass(frozen=True)
class Draft:
    """A block that is not in a chain yet.

    `parents` are blocks or hashes (dependencies) or pairs with a role: "dependency", "predecessor",
    "base" or "evidence". The media type follows from the kind if it is not given.

    >>> draft = blyan.Draft("D", 4096, "note", b"hello")
    >>> draft.hash() == draft.hash()
    True
    """

    lane: Lane
    kind: str | int
    name: str
    payload: _Buffer = field(repr=False)
    version: str = "1.0.0"
    parents: Iterable[Block | str | bytes | tuple[Block | str | bytes, Role]] = ()
    media_type: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "parents", tuple(self.parents))

    def hash(self) -> BlockHash:
        """The hash that the block will have."""
        from blyan._blyan import draft_hash

        return draft_hash(self)


@dataclass(frozen=True)
class Appended:
    """What an append did: the block, and whether it and its payload were new (or repaired)."""

    hash: BlockHash
    new_block: bool
    new_payload: bool


@dataclass(frozen=True)
class SignatureRecord:
    """Somebody's ed25519 signature on a block, as of a time they name (ms since 1970).

    >>> block = next(iter(chain))
    >>> record = blyan.SignatureRecord.sign(bytes(32), block, time_ms=0)
    >>> record.verifies(block), record.verifies(model.model)
    (True, False)
    """

    public_key: bytes
    time_ms: int
    signature: bytes

    @classmethod
    def sign(
        cls, key: bytes, block: Block | str | bytes, time_ms: int | None = None
    ) -> SignatureRecord:
        """Signs a block with a key of 32 secret bytes, as of now if no time is given."""
        from blyan._blyan import sign_block

        return sign_block(key, block, time_ms)

    def verifies(self, block: Block | str | bytes) -> bool:
        """Whether the signature is of this block, this time and this key."""
        from blyan._blyan import signature_verifies

        return signature_verifies(self, block)


class BadBlock(tuple[BlockHash, str]):
    """A block that is not what was appended: (block, reason), and what else is known.

    `name` is the block's where its header can be read, `damage` a word such as "payload_mismatch".
    """

    name: str | None
    damage: str

    def __new__(
        cls, block: BlockHash, reason: str, name: str | None = None, damage: str = "damage"
    ) -> BadBlock:
        made = super().__new__(cls, (block, reason))
        made.name = name
        made.damage = damage
        return made

    @property
    def block(self) -> BlockHash:
        """The block; all zeros for an entry of the index that belongs to none."""
        return self[0]

    @property
    def reason(self) -> str:
        """What is wrong with it, in words."""
        return self[1]

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self[0], self[1], self.name, self.damage

    def __repr__(self) -> str:
        return f"BadBlock({self[0]!r}, {self[1]!r}, name={self.name!r}, damage={self.damage!r})"


@dataclass(frozen=True)
class VerifyReport:
    """What a verification found."""

    blocks: int
    """Blocks whose headers are intact."""
    payload_bytes: int
    """Bytes of payload files hashed, each file once."""
    bad: list[BadBlock]
    """Every bad block and reason; one block may be bad in several ways."""
    collected: list[BlockHash] = field(default_factory=list)
    """Blocks whose payload was collected, so missing on purpose. Told by a full verification only."""

    @property
    def ok(self) -> bool:
        """Whether everything is as it was appended."""
        return not self.bad

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class ImportReport:
    """What an import appended, or would append."""

    model: BlockHash
    spec: BlockHash
    root: SnapshotRoot
    blocks_new: int
    blocks_known: int
    payload_bytes_new: int
    payload_bytes_known: int
    ignored_files: list[str]

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote: files by name, sorted; how many tensors and bytes of them."""

    files: list[str]
    tensors: int
    tensor_bytes: int

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class ImportProgress:
    """How far an import is."""

    blocks: int
    total_blocks: int
    payload_bytes: int
    total_payload_bytes: int


@dataclass(frozen=True)
class VerifyProgress:
    """How far a verification is; payloads are read by a full one only."""

    blocks: int
    total_blocks: int
    payload_bytes: int
    total_payload_bytes: int


@dataclass(frozen=True)
class ExportProgress:
    """How far an export is."""

    tensor_bytes: int
    total_tensor_bytes: int


@dataclass(frozen=True)
class BundleProgress:
    """How far a bundle is written or taken in."""

    blocks: int
    total_blocks: int
    payload_bytes: int


@dataclass(frozen=True)
class CompareProgress:
    """How far a comparison of two models is, in changed slots."""

    slots: int
    total_slots: int


@dataclass(frozen=True)
class BundleReport:
    """What a bundle holds: blocks, payloads (each once), signatures; and its bytes."""

    blocks: int
    payloads: int
    signatures: int
    bytes: int


@dataclass(frozen=True)
class UnbundleReport:
    """What taking in a bundle did."""

    blocks_new: int
    blocks_known: int
    signatures_new: int
    payload_bytes_new: int
    """New ones, damaged ones repaired, collected ones back again."""
    root: ChainRoot
    """Root of the chain afterwards."""


@dataclass(frozen=True)
class CollectReport:
    """What a collection deleted, or would delete."""

    blocks: list[BlockHash]
    """Blocks whose payload goes; they stay in the chain."""
    payloads: int
    payload_bytes: int
    stray_payloads: int
    """Files that no block names: what a crash left behind."""
    stray_bytes: int
    retained_payloads: int
    retained_bytes: int

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability, before any sampler."""

    token: int
    logprob: float


@dataclass(frozen=True)
class Logprobs:
    """Log probabilities at one position: the token that was chosen, and the best ones."""

    chosen: TokenLogprob
    top: Sequence[TokenLogprob]

    def __post_init__(self) -> None:
        object.__setattr__(self, "top", tuple(self.top))


class Piece(NamedTuple):
    """Text that became certain with one token."""

    token: int
    text: str
    """Often empty; never half a character, never part of a stop string."""
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None
    """Set with the last piece."""


@dataclass(frozen=True)
class Generation:
    """A finished generation.

    >>> g = model.generate("In the beginning", max_tokens=8)
    >>> g.finish_reason, len(g.tokens), g == g.receipt
    ('max_tokens', 8, False)
    """

    text: str
    """The new text; empty for a model without a tokenizer."""
    tokens: list[int]
    """The new tokens, a token that ended the text included."""
    prompt_tokens: int
    """How many tokens the model had read or was given to read before the first new one."""
    finish_reason: FinishReason
    """"stop_token", "stop_string", "max_tokens", "context_full" or "cancelled"."""
    logprobs: list[Logprobs] = field(repr=False)
    """One entry a new token, if they were asked for."""
    receipt: Receipt = field(repr=False)
    """What ran, complete enough to run it again."""

    def __hash__(self) -> int:
        return hash(self.receipt)

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        from blyan import _html

        return _html.generation(self)


@dataclass(frozen=True)
class StepReport:
    """What one step of training did."""

    step: int
    """Its number, from 0."""
    steps: int
    """Steps of the whole run."""
    loss: float
    """Mean loss over the step's tokens before it changed anything, in nats."""
    balance: float
    """Load-balancing loss, without its weight; 0 if it has none."""
    gradient_norm: float
    """Norm of all gradients together, before clipping."""
    learning_rate: float
    tokens: int
    """Tokens predicted."""
    elapsed_s: float

    @property
    def steps_done(self) -> int:
        """Steps done so far."""
        return self.step + 1

    @property
    def tokens_per_second(self) -> float:
        """How fast this step was."""
        return self.tokens / self.elapsed_s if self.elapsed_s > 0 else 0.0


@dataclass(frozen=True)
class TrainedBlock:
    """A block that was trained to take another's place."""

    slot: str
    base: BlockHash
    """The block in the slot when training began."""
    delta: BlockHash | None
    """The delta block that was learnt, in the forms that have one."""
    block: BlockHash
    """The block that takes the base's place."""


@dataclass(frozen=True)
class PinnedBlock:
    """A block in a slot, and its payload."""

    block: BlockHash
    payload: PayloadHash
    payload_bytes: int


@dataclass(frozen=True)
class SlotChange:
    """A slot that differs between two snapshots."""

    slot: str
    before: BlockHash | None
    after: BlockHash | None


@dataclass(frozen=True)
class ReleaseEntry:
    """A release that the chain holds: a model that has a name and a version."""

    block: BlockHash
    """The release block."""
    name: str
    version: str
    model: BlockHash
    predecessor: BlockHash | None
    """The release that it follows."""


@dataclass(frozen=True)
class LayerGrowth:
    """What one layer gets from `grow`: payloads of its new experts, and of the router that knows them."""

    layer: int
    experts: Sequence[_Buffer] = field(repr=False)
    """In the order of their numbers after the layer's last."""
    router: _Buffer = field(repr=False)
    """One row more for each."""


@dataclass(frozen=True)
class Distance:
    """How far a tensor moved: its values times their scales on one side, from those on the other."""

    norm: float
    """Frobenius norm of the difference."""
    relative_norm: float | None
    """The same divided by the norm before; None if that is 0."""
    max_abs: float
    """Largest magnitude of the difference."""


@dataclass(frozen=True)
class TensorDiff:
    """How one tensor differs: (dtype, shape) on both sides, where it is there."""

    name: str
    before: tuple[str, tuple[int, ...]] | None
    after: tuple[str, tuple[int, ...]] | None
    distance: Distance | None
    """Only where both sides have the same shape."""


@dataclass(frozen=True)
class SlotDiff:
    """How one slot differs."""

    slot: str
    before: PinnedBlock | None
    after: PinnedBlock | None
    same_payload: bool
    """Whether only the header is another."""
    tensors: list[TensorDiff]
    """Tensors that differ, by name, if distances were asked for."""

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class LossDiff:
    """Mean losses of two models on the same tokens, in nats per predicted token; the same bits everywhere."""

    before: float
    after: float
    tokens: int
    """Tokens that were predicted."""


@dataclass(frozen=True)
class SnapshotDiff:
    """How two models differ."""

    before: SnapshotRoot
    after: SnapshotRoot
    before_spec: BlockHash
    after_spec: BlockHash
    slots: list[SlotDiff]
    """Slots whose blocks differ, in slot order."""
    new_payload_bytes: int
    """Bytes of payloads that only the second has: what has to be sent to who has the first."""
    loss: LossDiff | None = None
    """What both lose on the tokens that were given, if any were."""

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Difference:
    """One leaf in which a receipt and what was recomputed differ."""

    path: str
    """JSON pointer into the receipt."""
    claimed: Any
    recomputed: Any
    """None if there is nothing to compare with, or the claimed value was edited after the run."""
    message: str = ""

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class ExpertUsage:
    """What is known of one expert."""

    slot: str
    layer: int
    expert: int
    block: BlockHash
    calls: int
    """Forward steps that used it."""
    tokens: int
    """Tokens that used it."""
    latency_mean_ns: float | None
    latency_p95_ns: float | None
    weight_sum: float
    """Sum of its routing weights."""
    weight_share: float
    """Its share of the layer's routing weights, 0 to 1."""
    last_used_ms: int | None
    """Unix time of its last use."""


@dataclass(frozen=True)
class CoUse:
    """How many tokens used two experts of a layer both."""

    layer: int
    experts: tuple[int, int]
    tokens: int


@dataclass(frozen=True)
class ResidencyReport:
    """What a model has touched so far."""

    blocks_verified: int
    bytes_mapped: int
    experts_touched: int
