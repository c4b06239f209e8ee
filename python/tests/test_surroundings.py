"""Logging, progress bars, exceptions as a tree, what is public."""

from __future__ import annotations

import inspect
import io
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MODEL

import blyan
from blyan import _blyan, _progress, exceptions


def test_logging_goes_to_pythons_logging(copy: blyan.Chain, caplog: pytest.LogCaptureFixture) -> None:
    model = blyan.MoEModelManager(copy)
    model.generate("x", max_tokens=1)
    model.usage.flush()
    model.close()
    assert copy.path is not None
    (file,) = (copy.path / "usage").glob("*.usage")
    file.write_bytes(b"junk")
    with caplog.at_level(logging.WARNING, logger="blyan"):
        blyan.MoEModelManager(copy)
    records = [record for record in caplog.records if record.name.startswith("blyan")]
    assert records and records[0].levelno == logging.WARNING and records[0].name.startswith("blyan.usage")
    caplog.clear()
    file.write_bytes(b"junk")
    with caplog.at_level(logging.CRITICAL, logger="blyan"):
        blyan.MoEModelManager(copy)
    assert not caplog.records


def test_what_is_logged_last_is_heard(copy: blyan.Chain, caplog: pytest.LogCaptureFixture) -> None:
    # It waited for a call that never came.
    assert copy.path is not None
    usage = copy.path / "usage"

    def used() -> blyan.MoEModelManager:
        model = blyan.MoEModelManager(copy)
        model.generate("x", max_tokens=1)
        shutil.rmtree(usage, ignore_errors=True)
        usage.write_bytes(b"where the counts would go")
        return model

    with caplog.at_level(logging.WARNING, logger="blyan"):
        used().close()
    assert "usage counts are not stored" in caplog.text
    usage.unlink()
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="blyan"), used():
        pass
    assert "usage counts are not stored" in caplog.text
    usage.unlink()
    script = f"""
import blyan, logging, pathlib
logging.basicConfig()
model = blyan.MoEModelManager(blyan.Chain({str(copy.path)!r}, read_only=True))
model.generate("x", max_tokens=1)
pathlib.Path({str(usage)!r}).write_bytes(b"")
del model
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "usage counts are not stored" in done.stderr


def test_a_log_handler_that_raises_breaks_nothing(copy: blyan.Chain) -> None:
    assert copy.path is not None
    (copy.path / "usage").mkdir()
    (copy.path / "usage" / f"{copy.snapshot().base}.usage").write_bytes(b"junk")

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ZeroDivisionError

    handler = Broken()
    logging.getLogger("blyan").addHandler(handler)
    try:
        with pytest.warns(pytest.PytestUnraisableExceptionWarning) if False else _nothing():
            blyan.MoEModelManager(copy)
    finally:
        logging.getLogger("blyan").removeHandler(handler)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_log_handler_is_heard(copy: blyan.Chain, raised: type[BaseException]) -> None:
    assert copy.path is not None
    (copy.path / "usage").mkdir()
    (copy.path / "usage" / f"{copy.snapshot().base}.usage").write_bytes(b"junk")

    class Interrupted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise raised

    handler = Interrupted()
    logging.getLogger("blyan").addHandler(handler)
    try:
        with pytest.raises(raised):
            blyan.MoEModelManager(copy)
    finally:
        logging.getLogger("blyan").removeHandler(handler)
    assert len(blyan.MoEModelManager(copy).generate("x", max_tokens=1).tokens) == 1


class _nothing:
    def __enter__(self) -> None:
        self.hook, sys.unraisablehook = sys.unraisablehook, lambda _: None

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self.hook


def test_bars(empty: blyan.Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stderr, progress, shown in [
        (io.StringIO(), None, False),
        (io.StringIO(), True, True),
        (Terminal(), None, True),
        (Terminal(), False, False),
    ]:
        monkeypatch.setattr(sys, "stderr", stderr)
        blyan.import_checkpoint(empty, MODEL, progress=progress)
        assert ("import" in stderr.getvalue()) == shown
    monkeypatch.setattr(sys, "stderr", Terminal())
    empty.verify()
    empty.verify(full=True)
    assert "verify" in sys.stderr.getvalue()
    monkeypatch.setitem(sys.modules, "tqdm.std", None)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert _progress.open(True, "x") is None and empty.verify(progress=True).ok
    monkeypatch.setattr(sys, "stderr", None)
    assert empty.verify().ok

    class Window:
        def write(self, text: str) -> None: ...
        def flush(self) -> None: ...

    monkeypatch.setattr(sys, "stderr", Window())
    assert empty.verify().ok


def test_one_tree_of_exceptions() -> None:
    classes = [c for _, c in inspect.getmembers(exceptions, inspect.isclass) if c.__module__ == "blyan.exceptions"]
    assert len(classes) > 25
    for cls in classes:
        assert issubclass(cls, exceptions.BlyanError) and cls.__doc__
        made = exceptions._make(cls.__name__, "code", "the message", {"field": 1})
        assert str(made) == "the message" and made.code == "code" and made.field == 1
    for cls, built_in in [
        (exceptions.BlockNotFoundError, KeyError),
        (exceptions.ChainNotFoundError, FileNotFoundError),
        (exceptions.CheckpointNotFoundError, FileNotFoundError),
        (exceptions.OptionError, ValueError),
        (exceptions.TensorNotFoundError, KeyError),
        (exceptions.ReadOnlyError, PermissionError),
        (exceptions.FolderNotEmptyError, FileExistsError),
    ]:
        assert issubclass(cls, built_in)


def test_every_class_that_the_compiled_part_raises_exists() -> None:
    source = (Path(__file__).resolve().parents[2] / "blyan-py/src/describe.rs").read_text()
    import re

    named = set(re.findall(r'"([A-Z]\w+(?:Error|Cancelled))"', source)) | {"Cancelled"}
    assert named and all(hasattr(exceptions, name) for name in named), named


def test_what_is_public() -> None:
    assert set(blyan.__all__) <= set(dir(blyan))
    public = {name for name in dir(_blyan) if inspect.isclass(getattr(_blyan, name))}
    places = {name: blyan.learn if name in blyan.learn.__all__ else blyan for name in public}
    for name, place in sorted(places.items()):
        assert name in place.__all__
        cls = getattr(place, name)
        assert cls.__module__ == place.__name__ and cls.__doc__
        for member, value in vars(cls).items():
            if not member.startswith("_") and (callable(value) or inspect.isdatadescriptor(value)):
                assert value.__doc__, f"{name}.{member}"


def test_importing_is_light() -> None:
    heavy = "numpy", "tqdm", "torch", "asyncio.subprocess", "IPython"
    code = f"import blyan, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[]", "['asyncio.subprocess']")
