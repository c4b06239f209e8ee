"""Owns progress bars: tqdm's where it is installed, in terminals and notebooks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


# What is done and how much there is to do, by the first pair that a report has.
_COUNTS = (
    ("payload_bytes", "total_payload_bytes"),
    ("tensor_bytes", "total_tensor_bytes"),
    ("blocks", "total_blocks"),
    ("slots", "total_slots"),
    ("steps_done", "steps"),
    ("tokens", "total_tokens"),
)


class Bar:
    """A bar of tqdm's that is told how far work is."""

    def __init__(self, tqdm: Any, what: str) -> None:
        self._bar = tqdm(desc=what, unit="B", unit_scale=True, unit_divisor=1024, leave=False)

    def __call__(self, progress: Any) -> None:
        # A verification of headers reads no payload, and nobody knows how long a bundle will be.
        for what, of in _COUNTS:
            done, total = getattr(progress, what, None), getattr(progress, of, None)
            if done is not None and total:
                break
        else:
            return
        if not what.endswith("bytes"):
            self._bar.unit, self._bar.unit_scale = f" {what.removesuffix('_done')}", False
        loss = getattr(progress, "loss", None)
        if loss is not None:
            self._bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()


def in_notebook() -> bool:
    """Whether output goes to a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def in_terminal() -> bool:
    """Whether stderr, where bars go, is a terminal."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except (ValueError, AttributeError):  # closed, or what a program put in its place
        return False


def _tqdm() -> Any:
    try:
        if in_notebook():
            # Without widgets tqdm warns about them; its plain bar does as well.
            try:
                import ipywidgets  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: F401
            except ImportError:
                from tqdm.std import tqdm  # type: ignore[import-untyped, unused-ignore]
            else:
                from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]
        else:
            from tqdm.std import tqdm  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return None
    return tqdm


def open(given: Any, what: str) -> Callable[[Any], object] | None:
    """What hears of progress: None asks for a bar where people look, True and False decide."""
    if given is None:
        given = in_terminal() or in_notebook()
    if given is False:
        return None
    if given is True:
        tqdm = _tqdm()
        return None if tqdm is None else Bar(tqdm, what)
    if not callable(given):
        raise TypeError(f"progress is a callable, True, False or None, not {type(given).__name__}")
    return given  # type: ignore[no-any-return]


def close(callback: Callable[[Any], object] | None) -> None:
    """Ends a bar."""
    if isinstance(callback, Bar):
        callback.close()
