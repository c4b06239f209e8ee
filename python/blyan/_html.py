"""Owns how chains, blocks, generations and receipts look in a notebook. Every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blyan._blyan import Block, Chain, Receipt
    from blyan._values import Generation

_SHOWN_PARENTS = 8


def _table(caption: str, rows: Iterable[tuple[str, Any]]) -> str:
    cells = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{value if isinstance(value, _Html) else escape(str(value))}</td></tr>'
        for name, value in rows
    )
    return f"<table><caption>{escape(caption)}</caption><tbody>{cells}</tbody></table>"


class _Html(str):
    """Text that is HTML already."""


def _code(text: object) -> _Html:
    return _Html(f"<code>{escape(str(text))}</code>")


def chain(chain: Chain) -> str:
    place = "in memory" if chain.path is None else str(chain.path)
    if chain.closed:
        return _table(f"Chain {place}", [("state", "closed")])
    models = [block for block in chain.heads("model") if block.kind == "model"]
    return _table(
        f"Chain {place}",
        [
            ("blocks", len(chain)),
            ("root", _code(chain.root())),
            ("models", _Html("<br>".join(_code(block.hash) for block in models) or "none")),
            ("open for", "reading and writing" if chain.writable else "reading"),
        ],
    )


def block(block: Block) -> str:
    parents = [f"{_code(parent.hash.short)} {escape(parent.role)}" for parent in block.parents[:_SHOWN_PARENTS]]
    if len(block.parents) > _SHOWN_PARENTS:
        parents.append(f"and {len(block.parents) - _SHOWN_PARENTS} more")
    return _table(
        f"Block {block.name}",
        [
            ("hash", _code(block.hash)),
            ("lane", block.lane),
            ("kind", block.kind),
            ("version", block.version),
            ("height", block.height),
            ("payload", _Html(f"{_code(block.payload_hash)}<br>{block.payload_bytes:,} bytes, {escape(block.media_type)}")),
            ("parents", _Html("<br>".join(parents) or "none")),
        ],
    )


def generation(generation: Generation) -> str:
    text = f'<pre style="white-space:pre-wrap;text-align:left">{escape(generation.text)}</pre>'
    return _table(
        "Generation",
        [
            ("text", _Html(text)),
            ("tokens", f"{len(generation.tokens)} after {generation.prompt_tokens} of the prompt"),
            ("ended by", generation.finish_reason),
            ("receipt", _code(generation.receipt.hash)),
        ],
    )


def receipt(receipt: Receipt) -> str:
    return _table(
        "Receipt",
        [
            ("hash", _code(receipt.hash)),
            ("model", _code(receipt.model)),
            ("tokens", f"{len(receipt.output_tokens)} after {len(receipt.prompt_tokens)} of the prompt"),
            ("logits", _code(receipt.logits)),
            ("blocks", len(receipt.blocks)),
            ("ended by", receipt.finish_reason),
        ],
    )
