"""Run mixture-of-experts language models from verified, content-addressed blocks.

>>> import blyan
>>> chain = blyan.Chain("data")                                  # opens or creates # doctest: +SKIP
>>> meta = blyan.import_checkpoint(chain, "models/tiny-kjv-moe") # doctest: +SKIP
>>> model = blyan.MoEModelManager(chain)                         # doctest: +SKIP
>>> g = model.generate("In the beginning", max_tokens=8)
>>> g.text
' of the law, and the word of'
>>> blyan.replay(chain, g.receipt)
True

In the examples of this package `chain` holds that model, `model` is open on it, and `folder` is the
checkpoint's folder.
"""

from collections.abc import Mapping as _Mapping

from blyan import aio, exceptions
from blyan._blyan import (
    NUMERICS_VERSION,
    Block,
    Blocks,
    CancelToken,
    Chain,
    MoEModelManager,
    Payload,
    Receipt,
    Session,
    Snapshot,
    Stream,
    TensorBlock,
    TensorView,
    UsageTracker,
    Writer,
    __version__,
    available_isas,
    export_checkpoint,
    import_checkpoint,
    quantize,
    release,
    write_tensors,
)
from blyan._replay import replay
from blyan._values import (
    Appended,
    BadBlock,
    BlockHash,
    ChainRoot,
    CoUse,
    Difference,
    Draft,
    ExpertUsage,
    ExportProgress,
    ExportReport,
    Generation,
    Hash,
    ImportProgress,
    ImportReport,
    LogitsDigest,
    Logprobs,
    Parent,
    PayloadHash,
    Piece,
    PinnedBlock,
    ReceiptHash,
    ResidencyReport,
    SignatureRecord,
    SlotChange,
    SnapshotRoot,
    TokenLogprob,
    VerifyProgress,
    VerifyReport,
)
from blyan.exceptions import BlyanError

_Mapping.register(TensorBlock)
_Mapping.register(UsageTracker)

__all__ = [
    "NUMERICS_VERSION",
    "Appended",
    "BadBlock",
    "Block",
    "BlockHash",
    "Blocks",
    "BlyanError",
    "CancelToken",
    "Chain",
    "ChainRoot",
    "CoUse",
    "Difference",
    "Draft",
    "ExpertUsage",
    "ExportProgress",
    "ExportReport",
    "Generation",
    "Hash",
    "ImportProgress",
    "ImportReport",
    "LogitsDigest",
    "Logprobs",
    "MoEModelManager",
    "Parent",
    "Payload",
    "PayloadHash",
    "Piece",
    "PinnedBlock",
    "Receipt",
    "ReceiptHash",
    "ResidencyReport",
    "Session",
    "SignatureRecord",
    "SlotChange",
    "Snapshot",
    "SnapshotRoot",
    "Stream",
    "TensorBlock",
    "TensorView",
    "TokenLogprob",
    "UsageTracker",
    "VerifyProgress",
    "VerifyReport",
    "Writer",
    "__version__",
    "aio",
    "available_isas",
    "exceptions",
    "export_checkpoint",
    "import_checkpoint",
    "quantize",
    "release",
    "replay",
    "write_tensors",
]
