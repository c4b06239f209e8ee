# Signatures are written by hand and checked by mypy.stubtest; docstrings are those of the compiled module,
# put here by python/tools/stub_docs.py and compared in the tests.

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, final, overload

from typing_extensions import Buffer, CapsuleType, Self

from blyan._evidence import (
    AuditReport,
    CandidateRoot,
    Chosen,
    ClaimEntry,
    Commitment,
    ContributeReport,
    Credit,
    DatasetAudit,
    DatasetState,
    EvaluateProgress,
    Evaluation,
    ExtractReport,
    Judgement,
    Lie,
    Policy,
    PublicKey,
    RecordedUse,
    Share,
    Statement,
    Tier,
)
from blyan._evidence import Piece as _ExtractPiece
from blyan._values import (
    Appended,
    BlockHash,
    BundleProgress,
    BundleReport,
    ChainRoot,
    CoUse,
    CollectReport,
    CompareProgress,
    Difference,
    Draft,
    ExpertUsage,
    ExportProgress,
    ExportReport,
    FinishReason,
    Generation,
    ImportProgress,
    ImportReport,
    Lane,
    LayerGrowth,
    LogitsDigest,
    Parent,
    PayloadHash,
    Piece,
    PinnedBlock,
    ReceiptHash,
    ReleaseEntry,
    ResidencyReport,
    SignatureRecord,
    SlotChange,
    SnapshotDiff,
    SnapshotRoot,
    StepReport,
    TrainedBlock,
    UnbundleReport,
    VerifyProgress,
    VerifyReport,
)

__all__ = [
    "NUMERICS_VERSION",
    "Block",
    "Blocks",
    "CancelToken",
    "Chain",
    "MoEModelManager",
    "Payload",
    "Receipt",
    "Session",
    "Snapshot",
    "Stream",
    "TensorBlock",
    "TensorView",
    "Trainer",
    "UsageTracker",
    "Writer",
    "__version__",
    "accuse",
    "append_delta",
    "append_policy",
    "append_receipt",
    "append_statement",
    "apply_delta",
    "attest",
    "audit",
    "audit_dataset",
    "audit_usage",
    "available_isas",
    "block_with_report",
    "candidate_root",
    "check_dataset_audit",
    "chosen_without",
    "claim",
    "claim_commitment",
    "claims_of",
    "close_round",
    "command_line",
    "contribute",
    "convert",
    "dataset_state",
    "datasets",
    "deliver_logs",
    "draft_hash",
    "evaluate",
    "evaluate_model",
    "evaluate_together",
    "evidence_of",
    "export_checkpoint",
    "extract",
    "find_block",
    "find_model",
    "grow",
    "import_checkpoint",
    "judge",
    "lineage",
    "merge_delta",
    "merged_hash",
    "merged_payload",
    "migrate",
    "open_round",
    "payload_from_bytes",
    "periods",
    "policy_of",
    "propose_candidate",
    "propose_dataset",
    "public_key",
    "publish",
    "publish_release",
    "quantize",
    "read_statement",
    "recompute_dataset_audit",
    "record_usage",
    "recorded_uses",
    "release",
    "releases",
    "restore_merged",
    "reveal",
    "reward_credits",
    "rewards",
    "rollback",
    "rule",
    "run_of",
    "sign_block",
    "sign_statement",
    "signature_verifies",
    "snapshot_of",
    "snapshot_of_manifest",
    "split_commitment",
    "statement_of",
    "tally",
    "tokenize",
    "unpickled_chain",
    "vote",
    "write_tensors",
]

_T = TypeVar("_T")
_StrPath: TypeAlias = str | os.PathLike[str]
_BlockLike: TypeAlias = Block | str | bytes
_Prompt: TypeAlias = str | Sequence[int]
_Message: TypeAlias = Mapping[str, Any]

class _Writes(Protocol):
    def write(self, data: bytes, /) -> int | None: ...

class _Reads(Protocol):
    def read(self, size: int, /) -> Buffer | None: ...

__version__: str
NUMERICS_VERSION: int

@final
class CancelToken:
    """A flag that ends work, for callers of their own."""

    def __new__(cls) -> Self: ...
    def cancel(self) -> None:
        """Ends the work that this token was given to: a generation ends with its next token, an import
        or a verification raises `Cancelled`. Can be called from any thread.
        """
    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""

@final
class Chain:
    """A DAG of content-addressed blocks in a directory, or in memory.

    `Chain(path)` opens the chain for reading and writing and creates it if there is none; there can be one
    such `Chain` of a path at a time, in all processes together. `Chain(path, read_only=True)` works beside
    it. A chain is a context manager, can be iterated (every block, parents first), and knows `len` and `in`.
    All methods may be called from several threads.

    A chain is open until it is closed, or until nothing uses it any more: it, its blocks and its snapshots.

    Ctrl-C ends a call that waits for another transaction. Once a call appends and has no way to stop, the
    first Ctrl-C waits for its end, and a second one leaves it to end by itself.

    Pickled, a chain is its path; unpickled, it is open for reading.

    >>> with blyan.Chain.in_memory() as empty:
    ...     len(empty)
    0
    """

    def __new__(cls, path: _StrPath, *, read_only: bool = False) -> Self: ...
    @classmethod
    def in_memory(cls) -> Chain:
        """A chain in memory, gone when nothing uses it any more."""
    @property
    def path(self) -> Path | None:
        """The chain's directory; `None` in memory."""
    @property
    def writable(self) -> bool:
        """Whether blocks can be appended."""
    @property
    def closed(self) -> bool:
        """Whether the chain was closed."""
    def close(self) -> None:
        """Closes the chain, its iterators and its writers; another process can open it for writing then.
        Models that were opened from it go on working, and so do views of tensors. Closing twice is fine.
        """
    def __enter__(self) -> Self: ...
    def __exit__(self, *_exception: object) -> None: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __contains__(self, key: _BlockLike, /) -> bool: ...
    def __iter__(self) -> Blocks: ...
    def __getitem__(self, key: _BlockLike, /) -> Block: ...
    def block(self, block: _BlockLike) -> Block:
        """The block of that hash (text, 32 bytes, or a block).

        Raises `BlockNotFoundError` (a `KeyError`) or `DamagedBlockError`. Its header is hashed again.

        >>> chain.block(model.model).kind
        'model'
        """
    @overload
    def get(self, block: _BlockLike) -> Block | None:
        """The block of that hash, or `default` if there is none."""
    @overload
    def get(self, block: _BlockLike, default: _T) -> Block | _T: ...
    def payload(self, block: _BlockLike) -> Payload:
        """The verified payload of a block: bytes that are mapped, not copied."""
    def payload_path(self, payload: str) -> Path | None:
        """The file of a payload, whether it exists or not: `b3sum` of it prints its name. `None` in memory."""
    def blocks(self, *, lane: Lane | None = None, kind: str | int | None = None) -> Blocks:
        """The blocks of a lane, of a kind, or all, by height, then hash; parents come before children.

        `lane` is "A" (meta), "B" (parameters) or "D" (data sets), `kind` a name such as "expert" or a
        number.

        >>> [block.name for block in chain.blocks(lane="B", kind="expert")][0][:5]
        'layer'
        """
    def topological_order(self) -> Blocks:
        """Every block, parents before children."""
    def heads(self, name: str) -> list[Block]:
        """The blocks of a name that no block of the same name has as its predecessor."""
    def children(self, block: _BlockLike) -> list[BlockHash]:
        """Hashes of the blocks that have this one as a parent."""
    def ancestors(self, block: _BlockLike) -> list[Block]:
        """Every block that this one depends on, directly or not, parents first."""
    def tips(self, lane: Lane | None = None) -> list[BlockHash]:
        """Hashes of the blocks of a lane without a child in the same lane; of all lanes without one."""
    def root(self) -> ChainRoot:
        """Names the whole DAG: a hash over the tips of all lanes."""
    def snapshot(self, model: _BlockLike | None = None) -> Snapshot:
        """The model that a model block pins or that has a name (see `find_model`), or the chain's only one.

        >>> chain.snapshot("latest") == chain.snapshot(model.model)
        True
        """
    def _refuse_own_writer(self) -> None:
        """Refuses what would wait for a transaction of this thread on another one."""
    def append(self, draft: Draft) -> Block:
        """Appends a block, durably, and returns it. One that the chain holds already stays as it is, its
        payload repaired if it is damaged.

        >>> with blyan.Chain.in_memory() as notes:
        ...     note = notes.append(blyan.Draft("D", 4096, "note", b"hello"))
        ...     bytes(note.payload), note in notes
        (b'hello', True)
        """
    def writer(self) -> Writer:
        """Begins a transaction: a context manager that commits at its end, and rolls back if an exception
        leaves it. Waits for another transaction of this process.
        """
    def sign(self, block: _BlockLike, key: bytes, *, time_ms: int | None = None) -> SignatureRecord:
        """Signs a block with an ed25519 key (32 secret bytes) and puts the signature beside it; `time_ms`
        is now if it is not given.
        """
    def add_signature(self, block: _BlockLike, signature: SignatureRecord) -> None:
        """Puts a signature beside a block, durably. Raises `RefusedBlockError` if it is not valid. Of one key at
        one time the first that is valid stays, and another is left out without an error.
        """
    def signatures(self, block: _BlockLike) -> list[SignatureRecord]:
        """The signatures beside a block, each verified again, by key and time."""
    def verify(
        self,
        full: bool = False,
        *,
        progress: Callable[[VerifyProgress], object] | bool | None = None,
        cancel: CancelToken | None = None,
    ) -> VerifyReport:
        """Verifies every block and every entry of the index; `full` also reads every payload file, on all
        cores. Damage is in the report, not an exception.

        `progress` is called with a `VerifyProgress`; `True` shows a bar, `False` nothing, `None` a bar
        in a terminal or a notebook.

        >>> report = chain.verify(full=True)
        >>> report.ok, report.bad
        (True, [])
        """
    def bundle(
        self,
        to: _StrPath | _Writes,
        *,
        blocks: Sequence[_BlockLike] | None = None,
        ancestors: bool = True,
        known: Sequence[_BlockLike] = (),
        progress: Callable[[BundleProgress], object] | bool | None = None,
        cancel: CancelToken | None = None,
    ) -> BundleReport:
        """Writes blocks, their payloads and their signatures as one bundle: into a file, which is there as a
        whole or not at all, or a binary stream with `write`, which returns how many bytes it took, or None
        for all of them. None of an `io.RawIOBase` means that it took none, as it would have to wait: that
        raises `BlockingIOError`.

        `blocks` are all of the chain if None; `ancestors` says whether their ancestors belong to it. To
        send what another chain lacks, give its tips as `known`: they, their ancestors and the payloads of
        these are left out. `progress` is called with a `BundleProgress` after each block; True shows a
        bar, False nothing, None a bar in a terminal or a notebook.

        >>> import io
        >>> stream = io.BytesIO()
        >>> chain.bundle(stream).blocks == len(chain)
        True
        >>> with blyan.Chain.in_memory() as another:
        ...     report = another.unbundle(io.BytesIO(stream.getvalue()))
        ...     report.root == chain.root()
        True
        """
    def unbundle(
        self,
        source: _StrPath | _Reads,
        *,
        max_payload_bytes: int | None = None,
        progress: Callable[[BundleProgress], object] | bool | None = None,
        cancel: CancelToken | None = None,
    ) -> UnbundleReport:
        """Takes in a bundle from a file, or a binary stream with `read`: all of its blocks that the chain
        does not hold, or nothing. Every check of an append is made; taking one in again changes nothing.
        A stream that gives None, as it would have to wait, raises `BlockingIOError`.

        A payload longer than `max_payload_bytes` (16 GiB if None) is refused. `progress` and `cancel` are
        as for `bundle`. Raises `InvalidBundleError` (a `ValueError`) for bytes that are no whole bundle,
        `RefusedBlockError` for a block that is not valid.
        """
    def collect(
        self,
        *,
        roots: Sequence[_BlockLike] | None = None,
        dry_run: bool = False,
        cancel: CancelToken | None = None,
    ) -> CollectReport:
        """Deletes payload files that no block names, and those of weights that nothing retained needs; with
        `dry_run=True` only says what would go. Blocks stay: history is never lost.

        Retained are the payloads of `roots`, or, if None, of every release and every model but those that
        one with all of its weights follows, directly or over others; with those of all blocks that they
        depend on or are based on. Candidates that are in no model yet go unless `roots` names them.

        >>> chain.collect(dry_run=True).payloads
        0
        """
    def __reduce__(self) -> tuple[Any, ...]: ...
    def _repr_html_(self) -> str: ...

@final
class Blocks:
    """A walk over blocks, parents before children; made by `Chain.blocks`.

    After a block that is damaged it goes on with the next one. It sees the chain as it was when its
    first block was asked for.
    """

    def __iter__(self) -> Self: ...
    def __next__(self) -> Block: ...

@final
class Writer:
    """A transaction: everything appended becomes durable and visible together, or not at all.

    It is the thread's that used it last: what that thread appends to the chain itself raises `BusyError`
    until the transaction ends, what another one appends waits for that.

    >>> with blyan.Chain.in_memory() as notes:
    ...     with notes.writer() as writer:
    ...         first = writer.append(blyan.Draft("D", 4096, "note", b"1"))
    ...         second = writer.append(blyan.Draft("D", 4096, "note", b"2", parents=[first.hash]))
    ...     len(notes)
    2
    """

    def append(self, draft: Draft) -> Appended:
        """Adds a block; its parents may be of the same transaction. A refused one leaves the transaction
        usable.
        """
    def add_signature(self, block: _BlockLike, signature: SignatureRecord) -> None:
        """Puts a signature beside a block, which may be of the same transaction. Of one key at one time the
        first that is valid stays, and another is left out without an error.
        """
    def __contains__(self, key: _BlockLike, /) -> bool: ...
    def commit(self) -> None:
        """Makes everything appended durable and visible, and ends the transaction."""
    def rollback(self) -> None:
        """Ends the transaction and leaves the chain as it was. Does nothing after `commit`."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self, exception_type: type[BaseException] | None = None, *_exception: object
    ) -> None: ...

@final
class Block:
    """A stored block: its name, what it says about itself, and what it carries.

    Equal blocks have equal hashes. Pickled, a block is the path of its chain, its hash and its report.

    >>> block = next(chain.blocks(kind="expert"))
    >>> block.lane, block.kind, block == chain[block.hash]
    ('B', 'expert', True)
    """

    @property
    def hash(self) -> BlockHash:
        """The block's name: BLAKE3 of its header."""
    @property
    def lane(self) -> Literal["A", "B", "D"]:
        """The lane: "A" (meta), "B" (parameters) or "D" (data sets)."""
    @property
    def kind(self) -> str:
        """What the payload is, such as "expert"; "kind4096" for a number without a name."""
    @property
    def kind_number(self) -> int:
        """The number of the kind."""
    @property
    def name(self) -> str:
        """The slot that the block fills, such as "layer0.expert1", or another name."""
    @property
    def version(self) -> str:
        """Version of what the block holds (SemVer)."""
    @property
    def height(self) -> int:
        """Length of the longest path to a block without parents."""
    @property
    def parents(self) -> tuple[Parent, ...]:
        """The blocks it depends on, by hash, each with its role."""
    @property
    def payload_hash(self) -> PayloadHash:
        """BLAKE3 of the payload, as `b3sum` prints it."""
    @property
    def payload_bytes(self) -> int:
        """Length of the payload in bytes."""
    @property
    def media_type(self) -> str:
        """What the payload's bytes are."""
    @property
    def header(self) -> bytes:
        """The header's canonical bytes, which hash to `hash`."""
    @property
    def payload(self) -> Payload:
        """The payload, verified and mapped: bytes that support the buffer protocol."""
    @property
    def tensors(self) -> TensorBlock:
        """The payload's tensors by name, verified and mapped.

        >>> expert = next(chain.blocks(kind="expert"))
        >>> sorted(expert.tensors)
        ['down_proj.weight', 'gate_proj.weight', 'up_proj.weight']
        """
    @property
    def report(self) -> ImportReport | None:
        """What the import did that returned this block; `None` for a block that was looked up."""
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    def _repr_html_(self) -> str: ...

@final
class Payload(Buffer):
    """The verified bytes of a payload, mapped and read-only. `bytes(payload)` copies them,
    `memoryview(payload)` does not.
    """

    def __len__(self) -> int: ...
    @property
    def mapped(self) -> bool:
        """Whether the bytes are those of a mapped file; small payloads that are no weights lie in the index."""
    def __bytes__(self) -> bytes: ...
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class TensorBlock(Mapping[str, TensorView]):
    """The tensors of a weight block by name: a mapping whose values share memory with the mapped file.

    >>> tensors = next(chain.blocks(kind="expert")).tensors
    >>> len(tensors), "gate_proj.weight" in tensors
    (3, True)
    """

    def __new__(cls, payload: Buffer) -> Self: ...
    def __len__(self) -> int: ...
    def __contains__(self, key: object, /) -> bool: ...
    def __iter__(self) -> Iterator[str]: ...
    def __getitem__(self, key: str, /) -> TensorView: ...
    @overload
    def get(self, name: str) -> TensorView | None:
        """The tensor of that name, or `default`."""
    @overload
    def get(self, name: str, default: _T) -> TensorView | _T: ...
    def keys(self) -> list[str]:  # type: ignore[override]
        """Names of the tensors, in byte order."""
    def values(self) -> list[TensorView]:  # type: ignore[override]
        """The tensors, by name."""
    def items(self) -> list[tuple[str, TensorView]]:  # type: ignore[override]
        """Names and tensors."""
    def scale(self, name: str) -> TensorView | None:
        """The scales of a quantized tensor, one a row, of int4 one for each 32 columns; `None` for a float tensor."""
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

@final
class TensorView(Buffer):
    """One tensor: a read-only view of the mapped payload, row-major.

    `numpy.asarray(view)` shares its memory. numpy has no bf16 and no fp8: those appear as raw uint16 and
    uint8, and `dtype` says what they are; `to_f32` widens them. int4 is raw bytes of two elements each, the
    first in the low half, stored plus 8: its memory has half the columns of `shape`. `torch.from_dlpack(view)` shares the
    memory too, bf16 included; writing to the tensor it makes is a fault, the memory is read-only.

    >>> view = chain.block(model.snapshot.slots["embedding"].block).tensors["embed_tokens.weight"]
    >>> view.dtype, view.nbytes == memoryview(view).nbytes
    ('BF16', True)
    """

    @property
    def name(self) -> str:
        """Its name in the block, such as "gate_proj.weight"."""
    @property
    def dtype(self) -> Literal["F32", "BF16", "F16", "F8_E4M3", "I8", "I4"]:
        """Element type: "F32", "BF16", "F16", "F8_E4M3", "I8" or "I4"."""
    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions, outermost first."""
    @property
    def ndim(self) -> int:
        """Number of dimensions."""
    @property
    def size(self) -> int:
        """Number of elements."""
    @property
    def itemsize(self) -> int:
        """Bytes of an element; 1 for "I4", of which a byte holds two."""
    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
    def to_f32(self) -> Any:
        """The elements widened to float32, exactly: a new array, or a `memoryview` where numpy is missing.
        Quantized elements are not multiplied by their scale.
        """
    def get_f32(self, index: int) -> float:
        """Element `index`, counted row-major, widened to a float; `IndexError` beyond the end."""
    def __bytes__(self) -> bytes: ...
    def __dlpack__(
        self,
        *,
        stream: None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> CapsuleType:
        """DLPack: a capsule that shares the memory, marked read-only. A consumer that asks for the old
        protocol, which cannot say so, gets a copy, or `BufferError` with `copy=False`.
        """
    def __dlpack_device__(self) -> tuple[int, int]:
        """Where the memory is, in DLPack's words: (1, 0), the CPU."""
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class MoEModelManager:
    """A model opened from a chain, ready to write text.

    `model` is a model block, a name as `find_model` knows it ("latest", "tiny@1.0.0"), or a `Snapshot`;
    without one, the chain has to hold exactly one model. `overlay` are blocks to try, each in the slot
    that its name says; nothing is appended.
    `threads` (all cores if None), `isa` ("scalar", "avx2", "avx512", "amx", "neon"; else `BLYAN_ISA` or the
    best) and `prefill_chunk` never change a result; `kv_cache` ("f16" or "f32") does. With
    `persist_usage` the counts of use are kept in the chain's directory. With `trust_verified` payload files
    that were verified before and did not change since are not hashed again (SECURITY.md says what that
    gives up). Where the CPU has AMX, the search for the best `isa`, like "amx", asks Linux for this
    process's right to use it, which lasts until exec.

    An open model needs the chain no more and does not keep it open, can be used from several threads at
    once, and after `fork` starts threads of its own. Pickled, it is a path, a model and these options.

    >>> model.generate("In the beginning", max_tokens=8).text
    ' of the law, and the word of'
    """

    def __new__(
        cls,
        chain: Chain,
        model: _BlockLike | Snapshot | None = None,
        threads: int | None = None,
        kv_cache: Literal["f16", "f32"] = "f16",
        *,
        overlay: Sequence[_BlockLike] = (),
        isa: str | None = None,
        prefill_chunk: int = 512,
        persist_usage: bool = True,
        trust_verified: bool = False,
    ) -> Self: ...
    def generate(
        self,
        prompt: _Prompt,
        max_tokens: int | None = None,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int = 0,
        stop: str | Sequence[str] | None = None,
        ignore_eos: bool = False,
        logprobs: int | None = None,
        cancel: CancelToken | None = None,
    ) -> Generation:
        """Continues a prompt: a text, or token ids.

        Greedy by default and until the model ends the text or its context is full. `stop` is a text or
        several that end the generation, as special tokens among them do when they are chosen; `logprobs` asks
        for log probabilities of that many best tokens; `cancel` is a `CancelToken`. Ctrl-C interrupts it.

        >>> model.generate([3, 17], max_tokens=2, temperature=0.8, seed=7).finish_reason
        'max_tokens'
        """
    def stream(
        self,
        prompt: _Prompt,
        max_tokens: int | None = None,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int = 0,
        stop: str | Sequence[str] | None = None,
        ignore_eos: bool = False,
        logprobs: int | None = None,
        cancel: CancelToken | None = None,
    ) -> Stream:
        """As `generate`, piece by piece: an iterator of `Piece`, whose `finish` gives the generation.

        >>> stream = model.stream("And God said", max_tokens=4)
        >>> text = "".join(piece.text for piece in stream)
        >>> stream.finish().text == text
        True
        """
    def generate_batch(
        self,
        prompts: Sequence[_Prompt],
        max_tokens: int | None = None,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int = 0,
        stop: str | Sequence[str] | None = None,
        ignore_eos: bool = False,
        logprobs: int | None = None,
        cancel: CancelToken | None = None,
    ) -> list[Generation]:
        """Continues several prompts beside each other; each result is what the prompt alone would give.

        >>> [g.text for g in model.generate_batch(["And", "In"], max_tokens=1)]
        [' the', ' the']
        """
    def chat(
        self,
        messages: Sequence[_Message],
        max_tokens: int | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        now: datetime | None = None,
        variables: Mapping[str, Any] | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int = 0,
        stop: str | Sequence[str] | None = None,
        ignore_eos: bool = False,
        logprobs: int | None = None,
        cancel: CancelToken | None = None,
    ) -> Generation:
        """Answers a conversation: dicts with "role" and "content", written by the model's chat template.

        `tools` and `documents` go to the template, as do `variables`; `template` names one of several;
        `now` is a `datetime` for templates that print the date. The rest are `generate`'s options.
        """
    def chat_stream(
        self,
        messages: Sequence[_Message],
        max_tokens: int | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        now: datetime | None = None,
        variables: Mapping[str, Any] | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int = 0,
        stop: str | Sequence[str] | None = None,
        ignore_eos: bool = False,
        logprobs: int | None = None,
        cancel: CancelToken | None = None,
    ) -> Stream:
        """As `chat`, piece by piece."""
    def chat_prompt(
        self,
        messages: Sequence[_Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        now: datetime | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """What the model's chat template makes of a conversation."""
    def session(self) -> Session:
        """A conversation that keeps its KV cache.

        >>> session = model.session()
        >>> text = session.generate("And God", max_tokens=4).text + session.generate("", max_tokens=4).text
        >>> text == model.generate("And God", max_tokens=8).text
        True
        """
    def logits(self, tokens: Sequence[int]) -> Any:
        """Logits of every position: float32, (tokens, vocabulary). An array of numpy's, or a `memoryview`
        where numpy is missing.

        >>> model.logits([3, 17, 99]).shape
        (3, 2048)
        """
    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Tokens of a text, with those that every text of the model starts with unless asked not to."""
    def detokenize(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of tokens, without special tokens unless asked for them.

        >>> model.detokenize(model.tokenize("Let there be light"))
        'Let there be light'
        """
    def count_tokens(self, text: str, *, add_special_tokens: bool = True) -> int:
        """How many tokens a text is."""
    @property
    def vocab_size(self) -> int:
        """Number of token ids that the model knows."""
    def token_id(self, token: str) -> int | None:
        """The id of a token by its text in the vocabulary; `None` if there is no such token."""
    def token_text(self, token: int) -> str | None:
        """The text of a token in the vocabulary; `None` if there is no such token."""
    @property
    def chat_templates(self) -> list[str]:
        """Names of the model's chat templates."""
    def special_token(self, name: str) -> str | None:
        """A special token's text, such as that of "bos_token"; `None` if the model has none."""
    @property
    def model(self) -> BlockHash:
        """The model block; of a snapshot in memory the one it would be published as."""
    @property
    def snapshot(self) -> Snapshot:
        """Spec and slots. What asks the chain raises `ClosedError` if that is closed."""
    @property
    def spec(self) -> dict[str, Any]:
        """The decoder, described by its parts, as a dict."""
    @property
    def usage(self) -> UsageTracker:
        """Which experts work, how long they take and which work together.

        >>> first = model.usage.top(1)[0]
        >>> model.usage[first.slot].tokens == first.tokens
        True
        """
    def residency(self) -> ResidencyReport:
        """What was verified, mapped and touched so far."""
    @property
    def isa(self) -> str:
        """Name of the instruction set that computes."""
    @property
    def threads(self) -> int:
        """Threads that compute."""
    @property
    def kv_cache(self) -> Literal["f16", "f32"]:
        """Element type of KV caches: "f16" or "f32"."""
    def close(self) -> None:
        """Stores the counts of use and lets go of the model's threads and maps, once nothing uses them."""
    def __enter__(self) -> Self: ...
    def __exit__(self, *_exception: object) -> None: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

@final
class Session:
    """A conversation that keeps its KV cache: each call goes on where the last one stopped.

    A session is used by one call or stream at a time; another one raises `BusyError`.

    >>> session = model.session()
    >>> first = session.generate("In the beginning", max_tokens=8)
    >>> len(session) == first.prompt_tokens + len(first.tokens)
    True
    """

    def generate(
        self,
        prompt: _Prompt,
        max_tokens: int | None = None,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int = 0,
        stop: str | Sequence[str] | None = None,
        ignore_eos: bool = False,
        logprobs: int | None = None,
        cancel: CancelToken | None = None,
    ) -> Generation:
        """Continues with `prompt`, which may be empty if there is something to continue. Takes the options
        of `MoEModelManager.generate`.
        """
    def stream(
        self,
        prompt: _Prompt,
        max_tokens: int | None = None,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int = 0,
        stop: str | Sequence[str] | None = None,
        ignore_eos: bool = False,
        logprobs: int | None = None,
        cancel: CancelToken | None = None,
    ) -> Stream:
        """As `generate`, piece by piece."""
    @property
    def tokens(self) -> list[int]:
        """Every token said so far, prompts and outputs."""
    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values held."""
    def truncate(self, length: int) -> None:
        """Forgets everything from token `length` on: an edited question, another try."""
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...

@final
class Stream:
    """Text as it is made: an iterator of `Piece`, each what one token makes certain.

    `finish` gives the generation so far, after the last piece or at any moment. A stream is a context
    manager, which ends it. Ctrl-C interrupts it; the stream can go on after that.

    >>> with model.stream("In the beginning", max_tokens=100) as stream:
    ...     piece = next(stream)
    ...     generation = stream.finish()
    >>> generation.finish_reason, generation.tokens == [piece.token]
    ('cancelled', True)
    """

    def __iter__(self) -> Self: ...
    def __next__(self) -> Piece: ...
    def finish(self) -> Generation:
        """The generation so far. A stream that was not read to its end counts as cancelled."""
    def cancel(self) -> None:
        """Ends the stream at the next token, from any thread. What was made so far stays."""
    def close(self) -> None:
        """Ends the stream and lets go of its memory, or of the session that it borrows."""
    def __enter__(self) -> Self: ...
    def __exit__(self, *_exception: object) -> None: ...

@final
class Trainer:
    """A run that trains slots of a snapshot (experts, routers, or any other) on tokens; all other weights stay as
    they are, and what comes of it are candidate blocks.

    `form` is "full" (all tensors, written in the types of their blocks), "low_rank" (factors of `rank` for each
    matrix, written as a delta block and as the block that it gives) or "int8" (what the matrices gained, in 8
    bits). A step takes `batch` sequences of `sequence` tokens. The learning rate rises over `warmup_steps` to
    `learning_rate` and falls along a cosine to `learning_rate * learning_rate_floor`. `clip` bounds the norm of
    all gradients together; None leaves them. `balance` weighs the load-balancing loss of routers.

    One seed and one number of threads give the same bits on one machine. A trainer is used by one call at a time.

    >>> from blyan import learn
    >>> tokens = model.tokenize("In the beginning God created the heaven and the earth. " * 4)
    >>> trainer = learn.Trainer(chain, model.snapshot, tokens, ["layer0.expert1"],
    ...                         steps=2, batch=1, sequence=8, learning_rate=1e-3)
    >>> trainer.run(progress=False), trainer.steps_done, trainer.trained_parameters
    (True, 2, 147456)
    """

    def __new__(
        cls,
        chain: Chain,
        snapshot: Snapshot,
        tokens: Sequence[int],
        slots: Sequence[str],
        *,
        form: Literal["full", "low_rank", "int8"] = "full",
        rank: int | None = None,
        steps: int = 100,
        batch: int = 8,
        sequence: int = 256,
        learning_rate: float = 0.0001,
        learning_rate_floor: float = 0.1,
        warmup_steps: int = 0,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        clip: float | None = 1.0,
        balance: float = 0.0,
        seed: int = 0,
        threads: int | None = None,
    ) -> Self: ...
    @classmethod
    def from_nothing(
        cls,
        spec: Mapping[str, Any],
        tokens: Sequence[int],
        *,
        deviation: float = 0.02,
        steps: int = 100,
        batch: int = 8,
        sequence: int = 256,
        learning_rate: float = 0.0001,
        learning_rate_floor: float = 0.1,
        warmup_steps: int = 0,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        clip: float | None = 1.0,
        balance: float = 0.0,
        seed: int = 0,
        threads: int | None = None,
    ) -> Self:
        """A run that begins from nothing and trains every slot of a spec (a dict as `Snapshot.spec` gives it);
        matrices begin normal with this deviation. Other options as for a `Trainer`.

        >>> from blyan import learn
        >>> trainer = learn.Trainer.from_nothing(model.snapshot.spec, range(100), steps=1, batch=1, sequence=8)
        >>> with blyan.Chain.in_memory() as another:
        ...     trainer.append_model(another, "bf16").kind
        'model'
        """
    def run(
        self,
        *,
        progress: Callable[[StepReport], object] | bool | None = None,
        cancel: CancelToken | None = None,
    ) -> bool:
        """Does the steps that are left. True once all are done, False if it was cancelled: between two steps, so
        it can go on.

        `progress` is called with a `StepReport` after each; True shows a bar, False nothing, None a bar in a
        terminal or a notebook. Ctrl-C ends the run after the step it is in.
        """
    def step(self) -> StepReport:
        """One step."""
    def loss(self, tokens: Sequence[int]) -> float:
        """Mean loss of tokens in nats, in windows of `sequence` predicted tokens: a guide while training. What
        counts is `evolve.evaluate` of the candidate.
        """
    def logits(self, sequence: Sequence[int]) -> Any:
        """Logits of every position of a sequence: float32, (tokens, vocabulary), as of `MoEModelManager.logits`."""
    def gradients(self, sequence: Sequence[int]) -> tuple[float, dict[tuple[str, str], Any]]:
        """Loss of one sequence and its gradients: (loss, {(slot, tensor): values in row-major order}). Changes
        nothing.
        """
    def append_candidates(self, chain: Chain) -> list[TrainedBlock]:
        """Appends a candidate for each slot that was trained, in slot order, and returns them; a slot whose
        weights round to those of its base has none.
        """
    def append_model(
        self, chain: Chain, dtype: str | None = "bf16", texts: Mapping[str, Buffer] | None = None
    ) -> Block:
        """Appends the whole model of a run from nothing, in f32, bf16 or f16, and returns its model block. `texts`
        are its tokenizer and other texts, by slot.
        """
    def checkpoint(self) -> bytes:
        """The state of the run, to be resumed from."""
    def resume(self, checkpoint: Buffer) -> None:
        """Goes on from a checkpoint of the same run (base, tokens, options): on one machine with one number of
        threads to the same bits as a run that was never stopped.
        """
    @property
    def steps_done(self) -> int:
        """Steps done."""
    @property
    def trained_parameters(self) -> int:
        """Numbers that learn."""

@final
class Snapshot:
    """One model: a spec, and a block for each slot. Made by `Chain.snapshot`.

    `with_block` makes another one in memory to try; a manager opens it like a model, `publish` appends
    it. Equal snapshots have equal roots.

    >>> snapshot = chain.snapshot()
    >>> snapshot == model.snapshot, snapshot.diff(model.snapshot)
    (True, [])
    """

    @classmethod
    def of_model(cls, chain: Chain, model: _BlockLike) -> Snapshot:
        """The model that a model block pins, or that has a name (see `find_model`)."""
    @classmethod
    def only_model(cls, chain: Chain) -> Snapshot:
        """The chain's only model; `NoModelError` if there is none or several."""
    def with_blocks(self, blocks: Sequence[_BlockLike]) -> Snapshot:
        """This model with each of some blocks in its slot, at most one a slot, in memory only: to try
        candidates.
        """
    def compare(
        self,
        after: Snapshot,
        *,
        distances: bool = False,
        tokens: Sequence[int] | None = None,
        window: int | None = 256,
        progress: Callable[[Any], object] | bool | None = None,
        cancel: CancelToken | None = None,
    ) -> SnapshotDiff:
        """How another model differs from this one: slots, bytes that would have to be sent, with `distances` how
        far the weights of changed slots moved, with `tokens` what both lose on them, in windows as
        `evolve.evaluate` has them. The same on every machine.

        `progress` is called with a `CompareProgress` after each changed slot, then with an
        `evolve.EvaluateProgress` while losses are measured; True shows a bar, False nothing, None a bar in a
        terminal or a notebook.

        >>> tokens = model.tokenize("In the beginning God created the heaven and the earth.")
        >>> difference = chain.snapshot().compare(model.snapshot, distances=True, tokens=tokens)
        >>> difference.slots, difference.new_payload_bytes, difference.loss.before == difference.loss.after
        ([], 0, True)
        """
    def with_block(self, block: _BlockLike) -> Snapshot:
        """This model with another block in the slot that the block's name says, in memory only."""
    def diff(self, after: Snapshot) -> list[SlotChange]:
        """The slots in which two snapshots differ."""
    def publish(self) -> Block:
        """Appends the snapshot as a model block that follows the one it came from, and returns the block. Its
        version is the next patch for other weights, minor for more slots, major for fewer or another
        architecture.
        """
    def model_block(self) -> BlockHash:
        """The model block that `publish` would give."""
    @property
    def root(self) -> SnapshotRoot:
        """Names the snapshot."""
    @property
    def spec(self) -> dict[str, Any]:
        """The decoder, described by its parts, as a dict."""
    @property
    def spec_block(self) -> BlockHash:
        """The spec's block."""
    @property
    def base(self) -> BlockHash | None:
        """The model block that the snapshot came from."""
    @property
    def slots(self) -> dict[str, PinnedBlock]:
        """The block of each slot, by the slot's name, in slot order."""
    @property
    def manifest(self) -> dict[str, Any]:
        """The model block's content, as a dict."""
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

@final
class Receipt:
    """What was run and what came out, complete enough to run it again.

    `to_json` gives the canonical text, which `hash` names; `from_json` reads it, in any spelling.

    >>> receipt = model.generate("And God", max_tokens=4).receipt
    >>> blyan.Receipt.from_json(receipt.to_json()) == receipt
    True
    >>> blyan.replay(chain, receipt)
    True
    """

    @staticmethod
    def from_json(json: str | Buffer) -> Receipt:
        """Reads a receipt from text or bytes. Raises `ReceiptError` (a `ValueError`) for anything else."""
    @staticmethod
    def of_claim(claim: Mapping[str, Any]) -> Receipt:
        """Seals a claim: a dict of the form that `claim` gives.

        >>> receipt = model.generate("And", max_tokens=1).receipt
        >>> blyan.Receipt.of_claim(receipt.claim) == receipt
        True
        """
    def to_json(self) -> str:
        """The canonical text: fields in a fixed order, no white space."""
    def __bytes__(self) -> bytes: ...
    @property
    def hash(self) -> ReceiptHash:
        """Names the receipt."""
    @property
    def claim(self) -> dict[str, Any]:
        """What was run and what came out, as a dict."""
    @property
    def model(self) -> BlockHash:
        """The model block."""
    @property
    def spec(self) -> BlockHash:
        """The spec block."""
    @property
    def snapshot(self) -> SnapshotRoot:
        """Names spec and slots of the model that ran."""
    @property
    def prompt_tokens(self) -> list[int]:
        """Tokens of the prompt."""
    @property
    def output_tokens(self) -> list[int]:
        """Tokens that were chosen."""
    @property
    def text(self) -> str | None:
        """The output as text; `None` if the model has no tokenizer."""
    @property
    def finish_reason(self) -> FinishReason:
        """Why the run ended."""
    @property
    def logits(self) -> LogitsDigest:
        """Digest of the logits that each output token was chosen from."""
    @property
    def numerics_version(self) -> int:
        """Version of the arithmetic."""
    @property
    def options(self) -> dict[str, Any]:
        """Every option that decides the outcome, with defaults resolved."""
    @property
    def blocks(self) -> dict[str, BlockHash]:
        """Every block that was touched, by the name of its slot."""
    def diff(self, recomputed: Receipt) -> list[Difference]:
        """Every leaf in which `recomputed` differs, and every field edited after this receipt was sealed."""
    def replay(
        self,
        chain: Chain,
        *,
        model: _BlockLike | None = None,
        overlay: Sequence[_BlockLike] = (),
        threads: int | None = None,
        isa: str | None = None,
        prefill_chunk: int | None = None,
    ) -> list[Difference]:
        """Runs the receipt's inputs again and returns every difference: an empty list if it is true. What ran with
        an overlay, and was not published since, needs the same `overlay` and the `model` below it (a block or a
        name; without one, the chain's only model).

        `threads`, `isa` and `prefill_chunk` say how to run; they never change a result.
        Ctrl-C ends the call; the run goes on beside it to its end, and keeps the chain open until then.
        """
    def uses(
        self,
        chain: Chain,
        *,
        model: _BlockLike | None = None,
        overlay: Sequence[_BlockLike] = (),
        threads: int | None = None,
        isa: str | None = None,
        prefill_chunk: int | None = None,
    ) -> dict[BlockHash, int]:
        """Runs the receipt's inputs again and returns the tokens that went through each block of weights; of an
        expert those that were routed to it. Empty if it cannot be run. Whether the receipt is true is for
        `replay`, which has the same options.
        """
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    def _repr_html_(self) -> str: ...

@final
class UsageTracker(Mapping[str, ExpertUsage]):
    """Which experts of a model work, how long they take and which work together; over all processes that
    run the model from one chain directory. A mapping from slot names to `ExpertUsage`. Pickled, it is its model.
    """

    def top(self, n: int) -> list[ExpertUsage]:
        """The experts that most tokens used, most used first; none that were never used."""
    def experts(self) -> list[ExpertUsage]:
        """Every expert, used or not, by layer and place."""
    def co_use(self) -> list[CoUse]:
        """Pairs of experts of a layer that worked together."""
    def snapshot(self) -> dict[str, Any]:
        """Everything that is known, as a dict of plain values."""
    @property
    def model(self) -> BlockHash:
        """The model block that is counted for."""
    def flush(self) -> None:
        """Stores what was counted since the last flush, and takes note of what other processes stored."""
    def reset(self) -> None:
        """Starts all counts at 0, stored ones included."""
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getitem__(self, key: str, /) -> ExpertUsage: ...
    @overload
    def get(self, slot: str) -> ExpertUsage | None:
        """The use of the expert in a slot, or `default` if the model has no such expert."""
    @overload
    def get(self, slot: str, default: _T) -> ExpertUsage | _T: ...
    def __contains__(self, key: object, /) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[str]: ...
    def keys(self) -> list[str]:  # type: ignore[override]
        """Slots of the model's experts."""
    def values(self) -> list[ExpertUsage]:  # type: ignore[override]
        """As `experts`."""
    def items(self) -> list[tuple[str, ExpertUsage]]:  # type: ignore[override]
        """Slots and experts."""

@overload
def import_checkpoint(
    chain: Chain,
    path: _StrPath,
    dtype: str | None = None,
    *,
    rope_frequencies: str | None = None,
    dry_run: Literal[False] = False,
    ignore_config_keys: Sequence[str] = (),
    progress: Callable[[ImportProgress], object] | bool | None = None,
    cancel: CancelToken | None = None,
) -> Block:
    """Imports a checkpoint folder in Hugging Face's layout, or a GGUF file (the first, if it is split), and
    returns the model block; its `report` says what was new. With `dry_run=True` nothing is appended and
    only the report is returned.

    `dtype` is None to keep the checkpoint's, or "int8", "int4", "fp8", "f16", "bf16". `rope_frequencies="bf16"`
    is for models that were made as a module cast to it as a whole. `ignore_config_keys` names unknown
    keys of config.json or of the GGUF metadata that do not change the arithmetic. `progress` is called with an `ImportProgress`
    after each block; True shows a bar, False nothing, None a bar in a terminal or a notebook.

    All blocks are one transaction: an import that fails, or is cancelled or interrupted before it commits,
    appends nothing.

    >>> with blyan.Chain.in_memory() as another:
    ...     meta = blyan.import_checkpoint(another, folder, dtype="int8")
    ...     meta.kind, meta.report.blocks_new == len(another)
    ('model', True)
    """
@overload
def import_checkpoint(
    chain: Chain,
    path: _StrPath,
    dtype: str | None = None,
    *,
    rope_frequencies: str | None = None,
    dry_run: Literal[True],
    ignore_config_keys: Sequence[str] = (),
    progress: Callable[[ImportProgress], object] | bool | None = None,
    cancel: CancelToken | None = None,
) -> ImportReport: ...
def export_checkpoint(
    chain: Chain,
    model: _BlockLike,
    path: _StrPath,
    *,
    overwrite: bool = False,
    max_shard_bytes: int | None = None,
    progress: Callable[[ExportProgress], object] | bool | None = None,
    cancel: CancelToken | None = None,
) -> ExportReport:
    """Writes a model as a checkpoint folder that transformers loads, and says what it wrote.

    The folder is complete or untouched; one that is there gets its files when all are written: its
    config.json goes first and the new one comes last. `max_shard_bytes` is how much goes into one file of weights, at least 1.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as empty:
    ...     sorted(blyan.export_checkpoint(chain, model.model, empty).files)[:2]
    ['config.json', 'generation_config.json']
    """
def release(chain: Chain, model: _BlockLike, name: str, version: str) -> Block:
    """Names a model: appends a release block with a name and a SemVer version, and returns it. It follows
    the release of the same name with the next lower version. A model that has this name and version
    already keeps its block.

    >>> with blyan.Chain.in_memory() as another:
    ...     meta = blyan.import_checkpoint(another, folder)
    ...     first = blyan.release(another, meta, "tiny", "1.0.0")
    ...     blyan.find_model(another, "tiny@1.0.0") == meta.hash
    True
    """
def releases(chain: Chain) -> list[ReleaseEntry]:
    """Every release, by name, the highest version first.

    >>> blyan.releases(chain)
    []
    """
def find_model(chain: Chain, name: str) -> BlockHash:
    """The model block of a name: "latest" for the one model that no other follows, a release ("tiny" is its
    highest version, "tiny@1.2.3" one), or a hash of a model or release block, or its first 4 digits or
    more.

    >>> blyan.find_model(chain, "latest") == model.model
    True
    """
def find_block(chain: Chain, name: str, *, of: str | None = None) -> BlockHash:
    """The block of a name: as for `find_model`, where a release is its own block and a hash may be of any
    block; or a slot such as "layer0.expert1", of the model named `of`, or of the latest.

    >>> blyan.find_block(chain, "layer0.expert1") == model.snapshot.slots["layer0.expert1"].block
    True
    """
def lineage(chain: Chain, block: _BlockLike) -> list[Block]:
    """A block and those whose place it took, the newest first.

    >>> [block.kind for block in blyan.lineage(chain, model.model)]
    ['model']
    """
def rollback(chain: Chain, current: _BlockLike, to: _BlockLike, reason: str) -> Block:
    """Appends a model block that follows `current` and has the slots of `to`, an older one that it comes
    from, and returns it: nothing is taken out of a chain. Where the two have other specs, a migration
    block with the reason is appended, too.
    """
def migrate(chain: Chain, before: _BlockLike, model: _BlockLike, reason: str) -> Block:
    """Appends a model block that follows `before` and has the slots of `model`, which has another
    architecture, and a migration block with the reason; returns the model block.
    """
def grow(chain: Chain, base: Snapshot, growth: Sequence[LayerGrowth]) -> Snapshot:
    """Appends a spec with more experts, the new experts and routers, and all other blocks of the model under
    that spec (payloads are shared); returns the grown model, which can be tried and published.

    `growth` says what layers get: `LayerGrowth`s, with payloads as `write_tensors` makes them.
    """
def append_delta(chain: Chain, base: _BlockLike, payload: Buffer) -> Block:
    """Appends what is added to the weights of `base`, and returns the block. `payload` is what
    `write_tensors` makes of `x.lora_A.weight` and `x.lora_B.weight`, or of `x.delta` and `x.delta_scale`,
    for matrices `x.weight` of the base.

    >>> import numpy as np
    >>> with blyan.Chain.in_memory() as another:
    ...     meta = blyan.import_checkpoint(another, folder)
    ...     expert = next(another.blocks(kind="expert"))
    ...     rows, cols = expert.tensors["up_proj.weight"].shape
    ...     a, b = np.full((1, cols), 0.01, "f4"), np.full((rows, 1), 0.1, "f4")
    ...     adapter = blyan.write_tensors({"up_proj.lora_A.weight": a, "up_proj.lora_B.weight": b})
    ...     delta = blyan.append_delta(another, expert, adapter)
    ...     better = blyan.merge_delta(another, delta)
    ...     better.name == expert.name, better.version, better.payload_hash == blyan.merged_hash(another, delta)
    (True, '1.0.1', True)
    """
def merge_delta(chain: Chain, delta: _BlockLike) -> Block:
    """Appends the block that a delta makes of its base, and returns it: an ordinary block of weights, of the
    same slot and the next patch version, whose payload hash attests the sum.
    """
def merged_hash(chain: Chain, delta: _BlockLike) -> PayloadHash:
    """The payload hash of the block that `merge_delta` would append. Appends nothing."""
def merged_payload(chain: Chain, block: _BlockLike) -> Payload:
    """The payload of a merged block: as stored, or made again from base and delta where it is missing or
    damaged. Writes nothing.
    """
def apply_delta(base: Buffer, delta: Buffer) -> bytes:
    """The payload that a delta makes of another one, without any chain: `base` and `delta` are what
    `write_tensors` makes, or payloads of blocks.
    """
def restore_merged(chain: Chain, block: _BlockLike) -> bool:
    """Makes sure that a merged block's payload is in the chain; whether it had to be made again."""
def public_key(key: bytes) -> PublicKey:
    """The public key of 32 secret bytes.

    >>> from blyan import evolve
    >>> evolve.public_key(bytes(32)).short
    '3b6a27bcceb6'
    """
def append_policy(chain: Chain, policy: Policy) -> Block:
    """Appends a policy: whose word counts, and how much improvement is enough.

    >>> from blyan import evolve
    >>> with blyan.Chain.in_memory() as another:
    ...     meta = blyan.import_checkpoint(another, folder)
    ...     policy = evolve.Policy(meta.hash, [evolve.public_key(bytes(32))])
    ...     block = evolve.append_policy(another, policy)
    ...     evolve.policy_of(another, block) == policy
    True
    """
def policy_of(chain: Chain, block: _BlockLike) -> Policy:
    """The policy in a block, all of it checked again."""
def evidence_of(chain: Chain, block: _BlockLike) -> dict[str, Any]:
    """A statement of a round, an audit, a vote and the like as a dict: the payload of a block of evidence.
    It was checked when it was appended.
    """
def tokenize(chain: Chain, snapshot: Snapshot, text: str) -> list[int]:
    """Token ids of a text as a snapshot's own tokenizer gives them, without special tokens: those that
    `propose_dataset` makes of it.
    """
def sign_statement(key: bytes, kind: str | int, body: Any) -> Statement:
    """Says something: signs the body of a statement. Appends nothing.

    `body` is a dict: of a kind of this library ("claim", "candidate", "attestation", "accusation", "audit",
    "vote", "round", "closing", "reveal", "usage_record") the fields of its body in docs/format.md, in any
    order; of an application's kind (a number from 4096 up) whatever it agreed on, in the order of the dict.
    Numbers are integers of 64 bits. Raises `EvidenceError` for what cannot be said.

    >>> from blyan import evolve
    >>> said = evolve.sign_statement(bytes(32), 5000, {"text": "so it is"})
    >>> said.key == evolve.public_key(bytes(32)), evolve.read_statement(5000, said.payload) == said
    (True, True)
    """
def read_statement(kind: str | int, payload: str | Buffer) -> Statement:
    """Reads the payload of a statement and verifies its signature, without what it names. Raises
    `EvidenceError` if it is not valid.
    """
def statement_of(chain: Chain, block: _BlockLike) -> Statement:
    """The statement in a block. Of a kind of this library all of it is checked again, against the blocks that
    it names too; of an application's kind the signature is.
    """
def append_statement(chain: Chain, statement: Statement) -> Block:
    """Appends a statement and returns its block; not of an application's kind, whose block is a `Draft` of the
    application's.
    """
def propose_dataset(
    chain: Chain,
    name: str,
    data: str | Sequence[int],
    *,
    license: str,
    source: str,
    snapshot: Snapshot | None = None,
    vocab_size: int | None = None,
    tokenizer: _BlockLike | None = None,
    tier: Tier = "experimental",
    version: str = "1.0.0",
    predecessor: _BlockLike | None = None,
) -> Block:
    """Proposes a dataset: appends its tokens and what is said about them, and returns the dataset block. The
    same proposal is the same block.

    `data` is a text, tokenized as `snapshot`'s model does it, or token ids below `vocab_size` (and the
    `tokenizer` block that they belong to, if they are text). `license` is an SPDX expression, `tier`
    "gold", "silver" or "experimental".

    >>> from blyan import evolve
    >>> with blyan.Chain.in_memory() as another:
    ...     block = evolve.propose_dataset(another, "count", range(9), vocab_size=9,
    ...                                    license="CC0-1.0", source="counted by hand")
    ...     block.kind, block.name
    ('dataset', 'count')
    """
def audit_dataset(chain: Chain, policy: _BlockLike, dataset: _BlockLike, key: bytes) -> Block:
    """Audits a dataset as a validator of the policy: counts what is in it and appends that, signed."""
def check_dataset_audit(chain: Chain, audit: _BlockLike) -> None:
    """Computes the audit of a dataset again; raises `StepError` if it does not say what is there."""
def recompute_dataset_audit(chain: Chain, policy: _BlockLike, dataset: _BlockLike) -> DatasetAudit:
    """What an honest validator finds in a dataset under a policy. Appends nothing."""
def vote(chain: Chain, policy: _BlockLike, dataset: _BlockLike, key: bytes, *, approve: bool) -> Block:
    """Votes on an audited dataset as a voter of the policy. A vote cannot be taken back; the same vote again
    is the same block.
    """
def tally(chain: Chain, policy: _BlockLike, dataset: _BlockLike) -> Block:
    """Counts every vote on a dataset that may be counted, and appends that. Anyone can."""
def rule(chain: Chain, policy: _BlockLike, dataset: _BlockLike) -> Block:
    """Appends what follows from the best tally: the dataset is accepted, or rejected. Anyone can."""
def dataset_state(chain: Chain, policy: _BlockLike, dataset: _BlockLike) -> DatasetState:
    """Where a dataset stands under a policy: a function of the set of blocks, whatever their order."""
def datasets(chain: Chain, policy: _BlockLike) -> list[DatasetState]:
    """Every dataset and where it stands under a policy, by height, then hash."""
def evaluate(
    chain: Chain,
    snapshot: Snapshot,
    tokens: Sequence[int],
    *,
    window: int | None = 256,
    pass_tokens: int | None = 1024,
    threads: int | None = None,
    isa: str | None = None,
    progress: Callable[[EvaluateProgress], object] | bool | None = None,
    cancel: CancelToken | None = None,
) -> Evaluation:
    """Mean loss of a model on tokens, the same bits on every machine: over windows that lie one after the
    other, each of `window` predicted tokens with an empty cache before it.

    `pass_tokens` (how many go through the model at once), `threads` and `isa` never change the result.
    `progress` is called with an `EvaluateProgress`; True shows a bar, False nothing, None a bar in a
    terminal or a notebook.

    >>> from blyan import evolve
    >>> tokens = model.tokenize("In the beginning God created the heaven and the earth.")
    >>> result = evolve.evaluate(chain, model.snapshot, tokens)
    >>> result.tokens == len(tokens) - 1, 0 < result.loss < 7
    (True, True)
    """
def evaluate_together(
    chain: Chain,
    base: Snapshot,
    candidates: Sequence[Snapshot],
    tokens: Sequence[int],
    *,
    window: int | None = 256,
    pass_tokens: int | None = 1024,
    threads: int | None = None,
    isa: str | None = None,
    progress: Callable[[EvaluateProgress], object] | bool | None = None,
    cancel: CancelToken | None = None,
) -> tuple[Evaluation, list[Evaluation]]:
    """Evaluates a base and candidates for its place: the evaluation of the base, and those of the candidates.
    Each has the bits that `evaluate` gives, but what the candidates share with the base, all below the first
    layer that they change, is computed once. All else is as for `evaluate`.

    >>> from blyan import evolve
    >>> tokens = model.tokenize("In the beginning God created the heaven and the earth.")
    >>> base, (same,) = evolve.evaluate_together(chain, model.snapshot, [model.snapshot], tokens)
    >>> base.loss_bits == same.loss_bits == evolve.evaluate(chain, model.snapshot, tokens).loss_bits
    True
    """
def evaluate_model(
    model: MoEModelManager,
    tokens: Sequence[int],
    *,
    window: int | None = 256,
    pass_tokens: int | None = 1024,
    progress: Callable[[EvaluateProgress], object] | bool | None = None,
    cancel: CancelToken | None = None,
) -> Evaluation:
    """As `evaluate`, of an open model, on its own threads and instruction set: the same bits, whatever its
    `kv_cache` is.
    """
def open_round(chain: Chain, key: bytes, policy: _BlockLike, split: Sequence[int]) -> Block:
    """Opens a round as a validator: commits to the tokens of `split`, which nobody may know, and which later
    judge what is proposed meanwhile. It improves the model that the rounds before come to.
    """
def claim(chain: Chain, key: bytes, round: _BlockLike, blocks: Mapping[str, _BlockLike]) -> Block:
    """Claims a candidate in a round without showing it: `blocks` are the new blocks by the names of their
    slots.
    """
def claims_of(chain: Chain, round: _BlockLike) -> list[ClaimEntry]:
    """The claims of a round, by block, each with its key."""
def close_round(chain: Chain, key: bytes, round: _BlockLike) -> Block:
    """Closes a round as its owner: lists the claims that it has. Nothing is shown before that."""
def propose_candidate(
    chain: Chain, key: bytes, claim: _BlockLike, blocks: Mapping[str, _BlockLike]
) -> Block:
    """Shows a candidate that was claimed, once its round is closed."""
def reveal(chain: Chain, key: bytes, round: _BlockLike, split: Sequence[int]) -> Block:
    """Shows the split of a round as its owner: it judges the candidates that are there."""
def candidate_root(base: _BlockLike, blocks: Mapping[str, _BlockLike]) -> CandidateRoot:
    """Names what a candidate changes: the model `base`, and the new blocks by the names of their slots."""
def claim_commitment(salt: str | bytes, author: str | bytes, root: str | bytes) -> Commitment:
    """What a claim commits to a candidate with: `author` is the claim's key, `root` the `candidate_root`; the
    candidate shows the salt, 32 bytes.
    """
def split_commitment(salt: str | bytes, tokens: str | bytes) -> Commitment:
    """What a round commits to its split with: `tokens` is the payload hash of its tokens; the reveal shows the
    salt, 32 bytes.
    """
def snapshot_of(chain: Chain, candidates: Sequence[_BlockLike]) -> Snapshot:
    """The model that candidates of one base make of it, in memory only."""
def attest(
    chain: Chain,
    key: bytes,
    reveal: _BlockLike,
    candidates: Sequence[_BlockLike] | None = None,
    *,
    threads: int | None = None,
    isa: str | None = None,
    progress: Callable[[EvaluateProgress], object] | bool | None = None,
    cancel: CancelToken | None = None,
) -> list[Block]:
    """Evaluates candidates of a reveal, together, as a validator, and appends what was measured. Without
    `candidates` each one, and all that were accepted together: a list of blocks either way.
    """
def audit(
    chain: Chain,
    policy: _BlockLike,
    key: bytes | None = None,
    *,
    threads: int | None = None,
    isa: str | None = None,
    progress: Callable[[EvaluateProgress], object] | bool | None = None,
    cancel: CancelToken | None = None,
) -> AuditReport:
    """Computes the attestations under a policy again and says which do not recompute; with `key`, a
    validator's, each lie is accused on the chain.
    """
def accuse(chain: Chain, key: bytes, policy: _BlockLike, lie: Lie) -> Block:
    """Appends an accusation of a lie that an audit found. Only those of validators count."""
def judge(chain: Chain, policy: _BlockLike) -> Judgement:
    """What follows from the blocks under a policy: which candidates are accepted and why others are not, who
    did what nobody may do, and the model that the fork choice takes. A function of the set of blocks,
    whatever their order.
    """
def chosen_without(chain: Chain, policy: _BlockLike, round: _BlockLike) -> Chosen:
    """The model that the fork choice would take without a round and those that came after it."""
def publish(chain: Chain, policy: _BlockLike) -> Block:
    """Appends the model that the fork choice takes, and those on the way to it; returns its block."""
def publish_release(chain: Chain, policy: _BlockLike, name: str, version: str) -> Block:
    """As `publish`, and gives the model a name and a version: returns the release block."""
def extract(
    chain: Chain,
    target: _BlockLike,
    source: _StrPath | Chain,
    pieces: Sequence[str | _ExtractPiece],
    *,
    model: _BlockLike | None = None,
    dtype: str | None = None,
    dry_run: bool = False,
    ignore_config_keys: Sequence[str] = (),
    cancel: CancelToken | None = None,
) -> ExtractReport:
    """Takes weights out of a checkpoint (a folder or a GGUF file) or a model of a chain, as blocks for the
    model or spec block `target`, which a candidate can name.

    `pieces` are names of slots or `Piece`s, which can divide an expert, or a dense layer, by rows. `source`
    is a path, or a chain with `model`. With `dry_run=True` nothing is appended.

    >>> from blyan import evolve
    >>> report = evolve.extract(chain, model.model, folder, ["layer0.expert1"], dry_run=True)
    >>> report.blocks[0].block == model.snapshot.slots["layer0.expert1"].block
    True
    """
def contribute(
    chain: Chain,
    key: bytes,
    round: _BlockLike,
    blocks: Mapping[str, _BlockLike],
    *,
    dry_run: bool = False,
) -> ContributeReport:
    """Takes the next step with a candidate: claims it, shows it once the round is closed, or says that there
    is nothing to do but wait. What can earn nothing, such as a copy, is refused before it is appended.
    With `dry_run=True` nothing is appended.
    """
def append_receipt(chain: Chain, receipt: Receipt) -> Block:
    """Appends a receipt as a block that depends on its model, and returns it. Whoever has the chain can run it
    again: this publishes the prompt and the text.
    """
def run_of(receipt: Receipt) -> str:
    """Names what a receipt's run read, as 64 digits: receipts that differ in anything else are of one run, which
    counts once.
    """
def record_usage(
    chain: Chain,
    policy: _BlockLike,
    reveal: _BlockLike,
    receipts: Sequence[_BlockLike],
    key: bytes,
    *,
    threads: int | None = None,
    isa: str | None = None,
    prefill_chunk: int | None = None,
) -> Block:
    """Runs receipt blocks again and says, as a validator, what they used; it counts in the period that
    `reveal` ends. Receipts that do not recompute are refused. The options say how to run, as those of
    `Receipt.replay`.
    """
def audit_usage(
    chain: Chain,
    record: _BlockLike,
    *,
    threads: int | None = None,
    isa: str | None = None,
    prefill_chunk: int | None = None,
) -> list[BlockHash]:
    """Runs the receipts of a record of use again: those that it is wrong about. The options say how to run, as
    those of `Receipt.replay`; so is what Ctrl-C does.
    """
def recorded_uses(chain: Chain, policy: _BlockLike) -> list[RecordedUse]:
    """Runs that count under a policy: enough validators recorded the same."""
def rewards(chain: Chain, policy: _BlockLike, period: int, pool: int) -> list[Share]:
    """How a pool is divided among the keys whose contributions were used in a period: a pure function of the
    blocks, in whole units. The periods so far are those below `periods`.
    """
def reward_credits(chain: Chain, policy: _BlockLike, period: int) -> list[Credit]:
    """What each contribution counts in a period, by the period it was adopted in and its claim."""
def periods(chain: Chain, policy: _BlockLike) -> int:
    """Periods so far under a policy: one more than the highest that a round has."""
def command_line(arguments: Sequence[str]) -> int:
    """Runs the command line; Ctrl-C stops it and leaves every chain sound."""
def available_isas() -> list[str]:
    """The instruction sets that this CPU has, the fastest last. Linux is asked for this process's right to `amx`."""
def write_tensors(
    tensors: Mapping[str, Buffer | tuple[str, Sequence[int], Buffer]],
) -> bytes:
    """The payload of a weight block: a safetensors file in its one canonical form.

    `tensors` maps names to views, arrays of float32, float16 or int8, or (dtype, shape, bytes).
    """
def quantize(
    dtype: str, tensor: Buffer | tuple[str, Sequence[int], Buffer]
) -> tuple[tuple[str, list[int], bytes], tuple[str, list[int], bytes]]:
    """Rounds a tensor to "int8" or "fp8" with one scale a row, or to "int4" with one for each 32 columns: the
    (values, scales) that `write_tensors` takes under the names `x` and `x_scale`.
    """
def convert(
    dtype: str, tensor: Buffer | tuple[str, Sequence[int], Buffer]
) -> tuple[str, list[int], bytes]:
    """Rounds the elements of a tensor to the float type `dtype`, to nearest, ties to even: the (dtype, shape,
    bytes) that `write_tensors` takes. Each has to be finite and to stay so.

    >>> import numpy as np
    >>> dtype, shape, data = blyan.convert("bf16", np.array([[1.0, -2.0]], "f4"))
    >>> dtype, shape, data.hex()
    ('BF16', [1, 2], '803f00c0')
    """
def draft_hash(draft: Draft) -> BlockHash:
    """Hash that the block of a draft will have."""
def sign_block(key: bytes, block: _BlockLike, time_ms: int | None = None) -> SignatureRecord:
    """Signs a block with an ed25519 key (32 secret bytes), without putting it anywhere."""
def signature_verifies(signature: SignatureRecord, block: _BlockLike) -> bool:
    """Whether a signature is of this block, this time and this key."""
def block_with_report(block: Block, report: ImportReport) -> Block:
    """A block with what the import that gave it did: what unpickling makes."""
def payload_from_bytes(bytes: bytes) -> Payload:
    """A payload of bytes, for pickles."""
def unpickled_chain(path: _StrPath) -> Chain:
    """For unpickling: the chain at a path, open for reading, the same one for all that is made of it."""
def snapshot_of_manifest(chain: Chain, manifest: str, base: _BlockLike | None) -> Snapshot:
    """For unpickling: a snapshot of these blocks, which comes from `base`."""
def deliver_logs() -> None:
    """Hands over what was logged since the last call. The end of the program does, too."""
