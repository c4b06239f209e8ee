"""What the tests share: the repository's model in a chain, opened once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import blyan

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "tiny-kjv-moe"
FIXTURES = ROOT / "blyan-core" / "tests" / "fixtures"


@pytest.fixture(scope="session")
def folder() -> Path:
    return MODEL


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a chain that holds the model; nobody has it open for writing."""
    path = tmp_path_factory.mktemp("chain") / "data"
    with blyan.Chain(path) as chain:
        blyan.import_checkpoint(chain, MODEL)
    return path


@pytest.fixture(scope="session")
def chain(place: Path) -> Iterator[blyan.Chain]:
    with blyan.Chain(place, read_only=True) as chain:
        yield chain


@pytest.fixture(scope="session")
def model(chain: blyan.Chain) -> blyan.MoEModelManager:
    return blyan.MoEModelManager(chain, persist_usage=False)


@pytest.fixture
def empty() -> Iterator[blyan.Chain]:
    with blyan.Chain.in_memory() as chain:
        yield chain


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[blyan.Chain]:
    """A chain of the test's own in a directory, with the model."""
    with blyan.Chain(tmp_path / "data") as chain:
        blyan.import_checkpoint(chain, MODEL)
        yield chain


def payload_file(place: Path, payload: str) -> Path:
    return place / "payloads" / payload[:2] / payload
