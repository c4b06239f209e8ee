"""Owns what unpickling makes: handles are a path and what names the thing in it, opened for reading."""

from __future__ import annotations

import os
from typing import Any

from blyan._blyan import (
    Block,
    Chain,
    MoEModelManager,
    Payload,
    Snapshot,
    TensorBlock,
    TensorView,
    block_with_report,
    payload_from_bytes,
    snapshot_of_manifest,
    unpickled_chain,
)
from blyan._values import ImportReport

def chain(path: os.PathLike[str] | str) -> Chain:
    return Chain(path, read_only=True)


def block(path: os.PathLike[str] | str, hash: str, report: ImportReport | None = None) -> Block:
    found = unpickled_chain(path).block(hash)
    return found if report is None else block_with_report(found, report)


def payload(data: bytes) -> Payload:
    return payload_from_bytes(data)


def tensors(place: tuple[os.PathLike[str] | str, str] | None, data: bytes | None) -> TensorBlock:
    if place is not None:
        return block(*place).tensors
    return TensorBlock(data or b"")


def tensor(place: tuple[os.PathLike[str] | str, str] | None, data: bytes | None, name: str) -> TensorView:
    return tensors(place, data)[name]


def snapshot(path: os.PathLike[str] | str, base: str | None, manifest: str) -> Snapshot:
    return snapshot_of_manifest(unpickled_chain(path), manifest, base)


def model(path: os.PathLike[str] | str, named: str | Snapshot, options: dict[str, Any]) -> MoEModelManager:
    return MoEModelManager(chain(path), named, **options)
