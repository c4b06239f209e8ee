"""Owns `replay`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from blyan._blyan import Receipt
from blyan.exceptions import ReplayError

if TYPE_CHECKING:
    from blyan._blyan import Block, Chain


def replay(
    chain: Chain,
    receipt: Receipt,
    *,
    model: Block | str | bytes | None = None,
    overlay: Sequence[Block | str | bytes] = (),
    threads: int | None = None,
    isa: str | None = None,
    prefill_chunk: int = 512,
) -> Literal[True]:
    """Runs a receipt's inputs again: True if it is true, else `ReplayError` with what differs.

    The options are those of `Receipt.replay`. Ctrl-C ends the call; the run goes on beside it to its end, and
    keeps the chain open until then.

    >>> blyan.replay(chain, model.generate("And", max_tokens=2).receipt)
    True
    """
    if not isinstance(receipt, Receipt):
        raise TypeError(f"expected a Receipt, not {type(receipt).__name__}")
    differences = receipt.replay(
        chain, model=model, overlay=overlay, threads=threads, isa=isa, prefill_chunk=prefill_chunk
    )
    if differences:
        shown = "; ".join(str(difference) for difference in differences[:3])
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        error = ReplayError(f"the receipt is not true: {shown}{more}")
        error.code = "replay"
        error.differences = differences
        raise error
    return True
