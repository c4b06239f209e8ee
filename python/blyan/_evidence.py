"""Plain values of `blyan.evolve`. They compare and pickle by content."""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from blyan._values import BlockHash, Hash, PayloadHash, SnapshotRoot

Tier: TypeAlias = Literal["gold", "silver", "experimental"]
Stage: TypeAlias = Literal["pending", "audited", "voted", "accepted", "rejected"]


class PublicKey(Hash):
    """An ed25519 public key: the only name that a contributor, validator or voter has."""

    __slots__ = ()


class Commitment(Hash):
    """Commits to something that is shown later: a salted hash that tells nothing before."""

    __slots__ = ()


class CandidateRoot(Hash):
    """Names what a candidate changes: the base model and the new blocks."""

    __slots__ = ()


class LossBits(str):
    """A mean loss in nats as the 16 hexadecimal digits of an f64: what is attested, exactly."""

    __slots__ = ()

    @property
    def value(self) -> float:
        """The loss."""
        return float(struct.unpack(">d", bytes.fromhex(self))[0])


@dataclass(frozen=True)
class Policy:
    """Whose word counts on a model, and how much improvement is enough.

    Without `required` all validators must agree. Shares and thresholds are in parts per million:
    `threshold_ppm` of the loss is the least improvement, `tolerance_ppm` the most that it may get worse on
    any of `datasets`.
    """

    model: BlockHash
    validators: Sequence[PublicKey]
    required: int | None = None
    threshold_ppm: int = 10_000
    tolerance_ppm: int = 1_000
    datasets: Sequence[BlockHash] = ()
    voters: Sequence[PublicKey] = ()
    quorum: int = 1
    approval_ppm: int = 500_001
    window: int = 256
    """Tokens that an evaluation window predicts."""
    tiers: Sequence[Tier] = ("gold", "silver", "experimental")
    """Tiers of datasets that may be voted on."""
    predecessor: BlockHash | None = None
    """The policy that this one takes the place of."""
    policy_version: int = 1

    def __post_init__(self) -> None:
        for name in ("validators", "datasets", "voters"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))
        best_first = get_args(Tier)
        known = sorted(set(self.tiers), key=lambda tier: (tier not in best_first, tier))
        object.__setattr__(self, "tiers", tuple(t for t in best_first if t in known) or tuple(known))
        if self.required is None:
            object.__setattr__(self, "required", len(self.validators))


@dataclass(frozen=True)
class EvaluateProgress:
    """How far an evaluation is."""

    tokens: int
    total_tokens: int
    loss: float
    """Mean so far, in nats."""
    tokens_per_second: float


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation gives."""

    loss_bits: LossBits
    """Mean loss in nats of a predicted token, exactly; not finite for a model that computes no
    probabilities."""
    tokens: int
    """Predicted tokens."""
    windows: int
    model_root: SnapshotRoot
    numerics_version: int
    elapsed_s: float
    """How long it took; no part of the result."""

    @property
    def loss(self) -> float:
        """Mean loss in nats of a predicted token."""
        return self.loss_bits.value

    @property
    def perplexity(self) -> float:
        """e to the loss."""
        return math.exp(self.loss) if self.loss < 709 else math.inf

    @property
    def tokens_per_second(self) -> float:
        """Predicted tokens a second."""
        return self.tokens / self.elapsed_s if self.elapsed_s else 0.0


@dataclass(frozen=True)
class Dataset:
    """What a dataset block says."""

    dataset_version: int
    name: str
    version: str
    predecessor: BlockHash | None
    tokens: BlockHash
    content_hash: PayloadHash
    num_tokens: int
    tokenizer: BlockHash | None
    vocab_size: int
    text_hash: PayloadHash | None
    tier: Tier
    license: str
    source: str


@dataclass(frozen=True)
class Findings:
    """What anyone counts in the tokens of a dataset."""

    content_hash: PayloadHash
    num_tokens: int
    out_of_vocabulary: int
    """Tokens that the policy's model has no embedding for."""
    distinct_tokens: int
    windows: int
    """Whole windows of the policy's length that lie one after the other."""
    duplicate_windows: int
    """Windows that are equal to an earlier one."""
    foreign_tokenizer: bool
    """Whether the dataset names another tokenizer than the policy's model has."""


@dataclass(frozen=True)
class TextFindings:
    """What the tokens of a dataset decode to."""

    decoded_hash: PayloadHash
    round_trip: bool
    """Whether that text gives the same tokens again."""


@dataclass(frozen=True)
class DatasetAudit:
    """What an audit of a dataset says: a function of policy and dataset."""

    policy: BlockHash
    model: BlockHash
    spec: BlockHash
    dataset: BlockHash
    tokens: BlockHash
    findings: Findings
    text: TextFindings | None
    """Only of a dataset that names its tokenizer and the hash of its text."""

    @property
    def is_fit(self) -> bool:
        """Whether the policy's model can read the tokens: what may be voted on."""
        return self.findings.out_of_vocabulary == 0 and not self.findings.foreign_tokenizer


@dataclass(frozen=True)
class DatasetState:
    """A dataset and where it stands under a policy."""

    block: BlockHash
    dataset: Dataset
    stage: Stage
    audits: list[BlockHash]
    """Audits that count, ascending."""
    votes: list[BlockHash]
    """Votes that count, one of each key, ascending."""
    equivocating: list[PublicKey]
    """Keys that said two things: they count for nothing."""
    tally: BlockHash | None
    """The best tally."""
    ruling: BlockHash | None
    twins: list[BlockHash]
    """Other dataset blocks with the same tokens, ascending."""
    duplicate_of: BlockHash | None
    """The accepted twin, if that is why this dataset is rejected."""

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Statement:
    """What a key says, signed. Made and read by functions that verify the signature."""

    kind: str
    """Kind of its block."""
    body: Any
    """What is said, usually a dict."""
    key: PublicKey
    signature: str
    """128 hexadecimal digits: the ed25519 signature of what docs/format.md says."""
    payload: str
    """The payload of its block: canonical JSON."""

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class ClaimEntry:
    """A claim of a round, and who made it."""

    block: BlockHash
    key: PublicKey


@dataclass(frozen=True)
class Losses:
    """Losses on one text, of a base and of it with candidates."""

    data: BlockHash
    """The split's tokens block, or a dataset block of the policy."""
    base: LossBits
    candidate: LossBits


@dataclass(frozen=True)
class Lie:
    """An attestation that does not recompute."""

    attestation: BlockHash
    key: PublicKey
    attested: list[Losses]
    recomputed: list[Losses]
    accusation: BlockHash | None
    """The accusation, if one was appended."""

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class AuditReport:
    """What an audit found."""

    checked: int
    """Attestations that were computed again."""
    lies: list[Lie]
    other_numerics: list[BlockHash]
    """Attestations of another version of the arithmetic."""
    collected: list[BlockHash]
    """Attestations of candidates whose weights, or those of their base, were collected."""

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Refusal:
    """Why something is not accepted: `code` is a word that does not change."""

    code: str
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class AcceptedSet:
    """Candidates that were accepted, alone or together, and the model that they make."""

    round: BlockHash
    reveal: BlockHash
    candidates: list[BlockHash]
    base: BlockHash
    model: BlockHash
    """Whether it was appended or not."""
    model_root: SnapshotRoot
    losses: list[Losses]
    """On the split first."""
    validators: list[PublicKey]
    attestations: list[BlockHash]
    score: float
    """Product of the ratios of losses on the splits, from the first model on; rounded."""

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class RoundState:
    """What is known of a round."""

    owner: PublicKey
    base: BlockHash
    previous: BlockHash | None
    ancestors: list[BlockHash]
    closings: list[BlockHash]
    """More than one void the round; so do several reveals."""
    reveals: dict[BlockHash, BlockHash]
    """With their splits' tokens blocks."""
    refused: Refusal | None
    accepted: list[AcceptedSet]

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class CandidateState:
    """What is known of a candidate."""

    author: PublicKey
    round: BlockHash
    claim: BlockHash
    base: BlockHash
    blocks: dict[str, BlockHash]
    accepted: bool
    losses: list[Losses]
    """What was attested, on the split first, if it is accepted."""
    validators: list[PublicKey]
    refused: Refusal | None

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Fault:
    """What a key did that nobody may do: two_closings, two_reveals, two_attestations (`block` is the
    reveal) or lie (the attestation)."""

    key: PublicKey
    round: BlockHash
    kind: str
    block: BlockHash | None


@dataclass(frozen=True)
class Chosen:
    """The model that the fork choice takes."""

    model: BlockHash
    """Whether it was appended or not; `publish` appends it."""
    root: SnapshotRoot
    score: float
    """What is left of the first model's loss, as a product of ratios; rounded."""
    steps: list[AcceptedSet]

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Judgement:
    """What follows from the blocks under a policy."""

    policy: BlockHash
    rounds: dict[BlockHash, RoundState]
    candidates: dict[BlockHash, CandidateState]
    faults: list[Fault]
    chosen: Chosen

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Piece:
    """Weights to extract: of the slot `source`, all or some rows of its projections (numbers of inner
    neurons), for the slot `target` (the same if None)."""

    source: str
    rows: Sequence[int] | None = None
    target: str | None = None


@dataclass(frozen=True)
class ExtractedBlock:
    """A block that was extracted."""

    slot: str
    block: BlockHash
    payload: PayloadHash
    payload_bytes: int
    new_block: bool
    new_payload: bool


@dataclass(frozen=True)
class ExtractReport:
    """What an extraction appended, or would append: one block for each piece, in their order."""

    blocks: list[ExtractedBlock]
    blocks_new: int
    blocks_known: int
    payload_bytes_new: int
    payload_bytes_known: int

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class ContributeReport:
    """How far a contribution is."""

    stage: Literal["claimed", "proposed", "revealed"]
    claim: BlockHash
    candidate: BlockHash | None
    """Once the round is closed."""
    appended: BlockHash | None
    """None while there is nothing to do but wait."""
    appended_bytes: int


@dataclass(frozen=True)
class RecordedUse:
    """A run that counts."""

    receipt: BlockHash
    reveal: BlockHash
    """The period that it counts in ends with it."""
    model: BlockHash
    run: str
    """Names what was run."""
    tokens: dict[BlockHash, int]
    """Tokens that went through each block."""

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Share:
    """What one key earned: its part of the pool, and the sum of the weights of its contributions."""

    author: PublicKey
    units: int
    weight: int


@dataclass(frozen=True)
class Credit:
    """What one contribution counts in a period."""

    author: PublicKey
    claim: BlockHash
    adopted: int
    """The period it was adopted in."""
    gain: int
    """What it was worth alone, in units of 2^-32 halvings of the loss; 0 of a copy."""
    credit: int
    """The part of it that no other candidate of the set explains."""
    tokens: int
    """Tokens that used it."""


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    if cls not in _HINTS:
        _HINTS[cls] = get_type_hints(cls, vars(sys.modules[__name__]))
    return _HINTS[cls]


def _typed(hint: Any, value: Any) -> Any:
    """A value of JSON as what an annotation says."""
    if value is None or hint is Any:
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is dict:
        return {_typed(arguments[0], key): _typed(arguments[1], item) for key, item in value.items()}
    if origin is list or origin is Sequence:
        return [_typed(arguments[0], item) for item in value]
    if origin is not None and type(None) in arguments:
        return _typed(next(other for other in arguments if other is not type(None)), value)
    if is_dataclass(hint) and isinstance(hint, type):
        hints = _hints(hint)
        return hint(**{one.name: _typed(hints[one.name], value[one.name]) for one in fields(hint)})
    return hint(value) if isinstance(hint, type) else value


def _make(name: str, value: Any) -> Any:
    """The object that the compiled module gives."""
    return _typed(globals()[name], value)
