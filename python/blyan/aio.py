"""`async` use: the same calls, awaited. Cancelling a task ends its work at the next token.

A token given as `cancel` ends every call that it was given to; cancelling a task sets no token.

>>> import asyncio
>>> async def main():
...     generation = await blyan.aio.AsyncModel(model).generate("In the beginning", max_tokens=8)
...     return generation.text
>>> asyncio.run(main())
' of the law, and the word of'
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from blyan._blyan import (
    CancelToken,
    Chain,
    MoEModelManager,
    Session,
    Stream,
    export_checkpoint as _export_checkpoint,
    import_checkpoint as _import_checkpoint,
)
from blyan._values import ExportReport, Generation, Piece, VerifyReport
from blyan.exceptions import ClosedError

if TYPE_CHECKING:
    from blyan._blyan import Block
    from blyan._values import ImportReport

__all__ = ["AsyncModel", "AsyncSession", "AsyncStream", "export_checkpoint", "import_checkpoint", "verify"]

_T = TypeVar("_T")

# How often a call looks at its caller's token.
_POLL_S = 0.01


class _Work(Generic[_T]):
    """A call on a thread, once one is free."""

    def __init__(self, call: Callable[[], _T]) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._taken = False
        self.future: asyncio.Future[_T] = asyncio.ensure_future(asyncio.to_thread(self._run))

    def _take(self) -> bool:
        """Whether the call still waits for a thread: the first who asks has it."""
        with self._lock:
            taken, self._taken = self._taken, True
        return not taken

    def _run(self) -> _T:
        if not self._take():
            raise asyncio.CancelledError
        return self._call()

    def drop(self) -> None:
        """Leaves out a call that still waits for a thread."""
        if self._take():
            self.future.cancel()

    def hurry(self) -> None:
        """Gives a call that still waits for a thread one of its own: its token is set, so it ends at once."""
        if self._take():
            self.future.cancel()
            own = ThreadPoolExecutor(1)
            self.future = asyncio.get_running_loop().run_in_executor(own, self._call)
            own.shutdown(wait=False)


async def _end(call: _Work[_T], own: CancelToken, theirs: CancelToken | None) -> _T:
    """Awaits work that `own` ends, which is set when the caller's token is or the task is cancelled."""
    try:
        while not call.future.done():
            if theirs is not None and theirs.cancelled:
                own.cancel()
                call.hurry()
            # Does not cancel what it waits for.
            await asyncio.wait([call.future], timeout=None if theirs is None or own.cancelled else _POLL_S)
    except asyncio.CancelledError:
        own.cancel()
        call.drop()
        # What it was doing is over before the caller goes on; its result is nobody's.
        await asyncio.wait([call.future])
        if not call.future.cancelled():
            call.future.exception()
        raise
    return call.future.result()


def _own(theirs: CancelToken | None) -> CancelToken:
    """A token for one call: other calls may have the caller's, too."""
    if not isinstance(theirs, CancelToken | None):
        raise TypeError(f"argument 'cancel': expected a CancelToken, not {type(theirs).__name__}")
    own = CancelToken()
    if theirs is not None and theirs.cancelled:
        own.cancel()
    return own


async def _run(call: Callable[..., _T], *arguments: Any, **options: Any) -> _T:
    """Awaits a call on a thread; cancelled, it ends the call and waits for its end."""
    theirs = options.pop("cancel", None)
    own = _own(theirs)
    progress = options.get("progress")
    if theirs is not None and callable(progress):
        # What it says by its caller's token is heard before the next step.
        def tell(report: object) -> None:
            progress(report)
            if theirs.cancelled:
                own.cancel()

        options["progress"] = tell
    work = _Work(functools.partial(call, *arguments, cancel=own, **options))
    return await _end(work, own, theirs)


class AsyncStream:
    """Text as it is made: an asynchronous iterator of `Piece`, and an asynchronous context manager."""

    def __init__(self, open: Callable[[CancelToken], Stream], token: CancelToken | None = None) -> None:
        self._open = open
        self._theirs = token
        self._token = _own(token)
        self._stream: Stream | None = None
        self._closed = False
        self._work: _Work[Piece | None] | None = None

    def _started(self) -> Stream:
        if self._stream is None:
            if self._closed:
                raise ClosedError("the stream is closed")
            self._stream = self._open(self._token)
        return self._stream

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        if self._stream is None and self._closed:
            raise StopAsyncIteration
        stream = self._started()
        if self._theirs is not None and self._theirs.cancelled:
            self._token.cancel()
        self._work = _Work(functools.partial(next, stream, None))
        piece = await _end(self._work, self._token, self._theirs)
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def finish(self) -> Generation:
        """The generation so far."""
        return await asyncio.to_thread(self._started().finish)

    def cancel(self) -> None:
        """Ends the stream at the next token."""
        self._token.cancel()

    async def aclose(self) -> None:
        """Ends the stream and lets go of what it holds."""
        self._closed = True
        if self._stream is not None:
            if self._work is not None and not self._work.future.done():
                # A task that was cancelled twice did not wait for it.
                self._token.cancel()
                await asyncio.wait([self._work.future])
            await asyncio.to_thread(self._stream.close)

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def _stream(call: Callable[..., Stream], *arguments: Any, **options: Any) -> AsyncStream:
    theirs = options.pop("cancel", None)
    return AsyncStream(lambda own: call(*arguments, cancel=own, **options), theirs)


class AsyncSession:
    """A `Session` whose calls are awaited, one at a time."""

    def __init__(self, session: Session) -> None:
        self.session = session

    async def generate(self, prompt: str | Sequence[int], max_tokens: int | None = None, **options: Any) -> Generation:
        """As `Session.generate`."""
        return await _run(self.session.generate, prompt, max_tokens, **options)

    def stream(self, prompt: str | Sequence[int], max_tokens: int | None = None, **options: Any) -> AsyncStream:
        """As `Session.stream`."""
        return _stream(self.session.stream, prompt, max_tokens, **options)


class AsyncModel:
    """A `MoEModelManager` whose calls are awaited; `model` is the model itself."""

    def __init__(self, model: MoEModelManager) -> None:
        self.model = model

    @classmethod
    async def open(cls, chain: Chain, model: Any = None, **options: Any) -> AsyncModel:
        """Opens a model; takes the options of `MoEModelManager`."""
        return cls(await asyncio.to_thread(MoEModelManager, chain, model, **options))

    async def generate(self, prompt: str | Sequence[int], max_tokens: int | None = None, **options: Any) -> Generation:
        """As `MoEModelManager.generate`."""
        return await _run(self.model.generate, prompt, max_tokens, **options)

    async def generate_batch(
        self, prompts: Sequence[str | Sequence[int]], max_tokens: int | None = None, **options: Any
    ) -> list[Generation]:
        """As `MoEModelManager.generate_batch`."""
        return await _run(self.model.generate_batch, prompts, max_tokens, **options)

    async def chat(
        self, messages: Sequence[dict[str, Any]], max_tokens: int | None = None, **options: Any
    ) -> Generation:
        """As `MoEModelManager.chat`."""
        return await _run(self.model.chat, messages, max_tokens, **options)

    def stream(self, prompt: str | Sequence[int], max_tokens: int | None = None, **options: Any) -> AsyncStream:
        """As `MoEModelManager.stream`: `async for piece in model.stream(...)`."""
        return _stream(self.model.stream, prompt, max_tokens, **options)

    def chat_stream(
        self, messages: Sequence[dict[str, Any]], max_tokens: int | None = None, **options: Any
    ) -> AsyncStream:
        """As `MoEModelManager.chat_stream`."""
        return _stream(self.model.chat_stream, messages, max_tokens, **options)

    async def logits(self, tokens: Sequence[int]) -> Any:
        """As `MoEModelManager.logits`."""
        return await asyncio.to_thread(self.model.logits, tokens)

    def session(self) -> AsyncSession:
        """As `MoEModelManager.session`."""
        return AsyncSession(self.model.session())


async def import_checkpoint(
    chain: Chain, path: str | os.PathLike[str], dtype: str | None = None, **options: Any
) -> Block | ImportReport:
    """As `blyan.import_checkpoint`; cancelled before it commits, it appends nothing."""
    if not options.get("dry_run"):
        # A writer of this thread would be waited for on another one for ever.
        chain._refuse_own_writer()
    return await _run(_import_checkpoint, chain, path, dtype, **options)


async def export_checkpoint(chain: Chain, model: Any, path: str | os.PathLike[str], **options: Any) -> ExportReport:
    """As `blyan.export_checkpoint`."""
    return await _run(_export_checkpoint, chain, model, path, **options)


async def verify(chain: Chain, full: bool = False, **options: Any) -> VerifyReport:
    """As `Chain.verify`."""
    return await _run(chain.verify, full, **options)
