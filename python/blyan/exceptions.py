"""What blyan raises: one tree under `BlyanError`.

Every exception has a stable ``code`` (snake case, as the names of the Rust errors) and the fields of the
error it comes from, as attributes; an attribute that an error does not have is absent. Where Python has a
class of its own for the case, the exception is one of that too:

>>> try:
...     chain.block("00" * 32)
... except KeyError as error:
...     print(type(error).__name__, error.code, error.block.short)
BlockNotFoundError not_found 000000000000
"""

from __future__ import annotations

import errno as _errno
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blyan._values import BlockHash, Difference, PayloadHash


_OS_FIELDS = ("errno", "strerror", "filename", "filename2")


class BlyanError(Exception):
    """Anything that blyan fails with."""

    code: str = "error"
    """What went wrong, as a word that does not change."""

    def __str__(self) -> str:
        # KeyError would show the message's repr.
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        # Python keeps an OSError's own fields elsewhere, and copies them only from arguments.
        own = {name: getattr(self, name, None) for name in _OS_FIELDS} if isinstance(self, OSError) else {}
        fields = {name: value for name, value in own.items() if value is not None}
        classes = type(self).__dict__.get("_of", (type(self),))
        return _again, (classes, self.args), {**fields, **self.__dict__}

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__} with code {self.code!r} has no field {name!r}")


class ChainError(BlyanError):
    """A chain and its blocks. Codes: needs_recovery, index, index_version, …"""


class ChainNotFoundError(ChainError, FileNotFoundError):
    """There is no chain where one was to be opened for reading (``filename``)."""


class ChainLockedError(ChainError):
    """The chain is open for writing elsewhere."""


class ReadOnlyError(ChainError, PermissionError):
    """The chain was opened for reading only."""


class StorageError(ChainError, OSError):
    """The operating system refused something (``errno``, ``filename``)."""


class BlockNotFoundError(ChainError, KeyError):
    """There is no such block (``block``), or no such parent (``parent``, ``name``)."""

    block: BlockHash
    parent: BlockHash
    name: str


class RefusedBlockError(ChainError, ValueError):
    """A block or signature that cannot be appended (``name``, ``kind`` or ``block``; of evidence also
    ``reason``, a word)."""

    block: BlockHash
    name: str
    kind: str
    reason: str


class DamagedBlockError(ChainError):
    """A stored block is not what was appended (``block``, ``damage``, …), or cannot fill its ``slot``."""

    block: BlockHash
    damage: str
    slot: str


class DamagedPayloadError(ChainError):
    """A payload file is missing or not what it was (``payload``, …)."""

    payload: PayloadHash


class DamagedIndexError(ChainError):
    """The chain's index is damaged (``reason``)."""

    reason: str


class PayloadCollectedError(ChainError):
    """The payload was collected (``block``, ``payload``); a bundle or an import brings it back."""

    block: BlockHash
    payload: PayloadHash


class BundleError(ChainError):
    """A bundle that cannot be written or taken in. Nothing was changed."""


class BundleIoError(BundleError, OSError):
    """The file or stream failed (``errno``, ``filename``)."""


class InvalidBundleError(BundleError, ValueError):
    """Bytes that are no whole bundle, or need blocks that are not there (``blocks``, ``block``, …)."""


class TensorError(BlyanError, ValueError):
    """A payload that is no set of tensors, or a tensor that cannot be used."""


class TensorNotFoundError(TensorError, KeyError):
    """A block has no such tensor (``tensor``, ``present``)."""

    tensor: str
    present: list[str]


class CheckpointError(BlyanError):
    """A checkpoint folder that cannot be imported. Nothing was appended."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """The folder or a file of it is not there (``filename`` or ``names``)."""


class CheckpointIoError(CheckpointError, OSError):
    """A file of the folder cannot be read (``errno``, ``filename``)."""


class InvalidCheckpointError(CheckpointError, ValueError):
    """The folder holds no model that can be imported (``file``, ``key``, ``tensor``, …)."""


class ExportError(BlyanError):
    """A model that cannot be exported."""


class ExportIoError(ExportError, OSError):
    """A file cannot be written (``errno``, ``filename``)."""


class FolderNotEmptyError(ExportError, FileExistsError):
    """The folder to export to has something in it (``filename``)."""


class ModelError(BlyanError):
    """A model that cannot be opened or run."""


class NoModelError(ModelError, LookupError):
    """The chain holds no model, or several (``models``) and none was named."""

    models: list[BlockHash]


class NameNotFoundError(ModelError, KeyError):
    """No block of the chain has that ``name``, or the model has none in that ``slot``."""

    name: str
    slot: str


class AmbiguousNameError(ModelError, LookupError):
    """Several blocks have that ``name`` (``candidates``)."""

    name: str
    candidates: list[BlockHash]


class HistoryError(ModelError, ValueError):
    """A step of a model's history that cannot be taken. Codes: release_exists (``name``, ``version``,
    ``model``), not_in_history (``model``, ``of``), needs_migration (``before``, ``spec``), not_growing
    (``layer``)."""

    model: BlockHash


class DeltaError(ModelError, ValueError):
    """A delta block that cannot be made or merged (``block``, …)."""

    block: BlockHash


class OptionError(ModelError, ValueError):
    """An argument that cannot be: out of range, empty, unknown (``field``, ``value``, ``expected``, …)."""

    field: str
    value: float
    expected: str


class ContextFullError(OptionError):
    """More tokens than the model has positions for (``prompt_tokens``, ``max_tokens``, ``capacity``)."""

    prompt_tokens: int
    max_tokens: int
    capacity: int


class TextError(ModelError, ValueError):
    """Text that the model cannot read or write, such as without a tokenizer."""


class ChatError(ModelError, ValueError):
    """A chat that the model's template cannot render (``line``, ``reason``, …)."""


class ReceiptError(BlyanError, ValueError):
    """Bytes that are no receipt."""


class ReplayError(BlyanError):
    """Running a receipt again gave something else: ``differences`` says what."""

    differences: list[Difference]


class UsageError(BlyanError):
    """Counts of use that cannot be stored."""


class UsageIoError(UsageError, OSError):
    """The file of counts cannot be read or written (``errno``, ``filename``)."""


class ExpertNotFoundError(UsageError, KeyError):
    """The model has no such expert (``slot`` or ``name``)."""


class EvidenceError(BlyanError, ValueError):
    """Evidence that is not valid: a policy, a statement, a dataset (``block``, ``key``, ``policy``, …)."""

    block: BlockHash
    key: str
    policy: BlockHash


class StepError(EvidenceError):
    """A step of a round or of a dataset's life that cannot be taken (``round``, ``dataset``, ``claim``, …)."""

    round: BlockHash
    dataset: BlockHash


class ExtractError(EvidenceError):
    """Weights that cannot be taken (``slot``, …)."""

    slot: str


class TrainingError(BlyanError):
    """A training run that failed. Codes: diverged (``step``, ``loss``: lower the learning rate), candle."""

    step: int
    loss: float


class RunCheckpointError(TrainingError, ValueError):
    """Bytes that are no checkpoint of a training run (``reason``), or that of another run (``field``, ``found``,
    ``expected``)."""

    reason: str
    field: str
    found: str
    expected: str


class HashError(BlyanError, ValueError):
    """Text that is no hash."""


class ClosedError(BlyanError, ValueError):
    """A handle was used after it was closed."""


class ForkedError(BlyanError, RuntimeError):
    """What belongs to the process that ``fork`` was called in (``process``): a handle, which can be opened
    again; a call that was under way; training, which its children cannot do if it began to."""

    process: int


class BusyError(BlyanError, RuntimeError):
    """A session, stream or trainer is in use by another call."""


class Cancelled(BlyanError):
    """The caller cancelled."""


class InternalError(BlyanError, RuntimeError):
    """The library failed in a way it never should, or the system gave it no threads or no memory for weights
    (``len_bytes``)."""

    len_bytes: int


def _make(name: str, code: str, message: str, fields: dict[str, Any]) -> BlyanError:
    """The exception that the compiled module raises."""
    error: BlyanError = _with_built_in(globals()[name], fields.get("errno"))(message)
    error.code = code
    for field, value in fields.items():
        setattr(error, field, value)
    if isinstance(error, (FileNotFoundError, FileExistsError)) and error.errno is None:
        error.errno = _errno.ENOENT if isinstance(error, FileNotFoundError) else _errno.EEXIST
        error.strerror = os.strerror(error.errno)
    return error


def _with_built_in(cls: type[BlyanError], number: int | None) -> type[BlyanError]:
    """The class; of an `OSError` one that also is what Python calls that number, such as `PermissionError`."""
    if number is None or not issubclass(cls, OSError):
        return cls
    built_in = type(OSError(number, ""))
    return cls if issubclass(cls, built_in) else _joined(cls, built_in)


_JOINED: dict[tuple[type[BlyanError], type[OSError]], type[BlyanError]] = {}


def _joined(cls: type[BlyanError], built_in: type[OSError]) -> type[BlyanError]:
    """One class for each pair, so that pickles find it again."""
    more = {"__doc__": cls.__doc__, "__module__": __name__, "_of": (cls, built_in)}
    return _JOINED.setdefault((cls, built_in), type(cls.__name__, (cls, built_in), more))


def _again(classes: tuple[Any, ...], arguments: tuple[Any, ...]) -> BlyanError:
    """What unpickling makes."""
    cls = classes[0] if len(classes) == 1 else _joined(*classes)
    made: BlyanError = cls(*arguments)
    return made
