"""The asynchronous wrapper: the same results, several at once, cancellation."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import MODEL

import blyan
from blyan import aio, exceptions

PROMPT = "In the beginning"

# Some 30,000 tokens: seconds of work, where a test gives it milliseconds before it ends it.
LONG = [PROMPT] * 64


def test_the_same_results(model: blyan.MoEModelManager, tmp_path: Path) -> None:
    async def main() -> None:
        wrapped = aio.AsyncModel(model)
        expected = model.generate(PROMPT, max_tokens=10)
        many = await asyncio.gather(*(wrapped.generate(PROMPT, max_tokens=10) for _ in range(3)))
        assert many == [expected] * 3
        async with wrapped.stream(PROMPT, max_tokens=10) as stream:
            pieces = [piece async for piece in stream]
            assert await stream.finish() == expected
        assert [piece.token for piece in pieces] == expected.tokens
        assert await wrapped.generate_batch([PROMPT], max_tokens=10) == [expected]
        session = wrapped.session()
        assert await session.generate(PROMPT, max_tokens=10) == expected
        assert (await wrapped.logits([3])).shape == (1, 2048)
        with pytest.raises(exceptions.OptionError):
            await wrapped.generate(PROMPT, max_tokens=0)
        with pytest.raises(exceptions.ChatError):
            await wrapped.chat([{"role": "user", "content": "x"}])
        with blyan.Chain(tmp_path / "c") as chain:
            meta = await aio.import_checkpoint(chain, MODEL)
            assert (await aio.verify(chain, full=True)).ok
            assert (await aio.export_checkpoint(chain, meta, tmp_path / "out")).files
            opened = await aio.AsyncModel.open(chain, threads=1)
            assert await opened.generate(PROMPT, max_tokens=10) == expected

    asyncio.run(main())


def test_a_stream_that_was_closed_before_it_began_stays_closed(model: blyan.MoEModelManager) -> None:
    async def main() -> None:
        async with aio.AsyncModel(model).stream(PROMPT, max_tokens=3) as stream:
            pass
        assert [piece async for piece in stream] == []
        with pytest.raises(exceptions.ClosedError):
            await stream.finish()

    asyncio.run(main())


def test_calls_that_share_a_token_end_alone_and_together(model: blyan.MoEModelManager) -> None:
    # Cancelling one task once ended the others and set the caller's token for good.
    async def main() -> None:
        wrapped = aio.AsyncModel(model)
        token = blyan.CancelToken()

        async def read(tokens: int) -> list[blyan.Piece]:
            pieces: list[blyan.Piece] = []
            while len(pieces) < tokens:
                pieces += [piece async for piece in wrapped.stream(PROMPT, 60, ignore_eos=True, cancel=token)]
            return pieces

        cancelled = asyncio.create_task(wrapped.generate_batch(LONG, ignore_eos=True, cancel=token))
        stopped = asyncio.create_task(read(tokens=10_000))
        others = [
            asyncio.create_task(wrapped.generate(PROMPT, max_tokens=60, ignore_eos=True, cancel=token)),
            asyncio.create_task(read(tokens=60)),
        ]
        await asyncio.sleep(0.02)
        for task in (cancelled, stopped):
            task.cancel()
        expected = model.generate(PROMPT, max_tokens=60, ignore_eos=True).tokens
        assert (await others[0]).tokens == expected
        assert [piece.token for piece in await others[1]] == expected
        # They end with their next token, which may be after the others' last one.
        for task in (cancelled, stopped):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not token.cancelled

        together = [
            asyncio.create_task(wrapped.generate_batch(LONG, ignore_eos=True, cancel=token)) for _ in range(2)
        ]
        await asyncio.sleep(0.02)
        token.cancel()
        for task in together:
            assert {generation.finish_reason for generation in await task} == {"cancelled"}
        # A token that is set already ends what is given it.
        assert (await wrapped.generate(PROMPT, ignore_eos=True, cancel=token)).finish_reason == "cancelled"
        with pytest.raises(TypeError):
            await wrapped.generate(PROMPT, cancel=True)

    asyncio.run(main())


def test_cancelling_a_task_ends_its_work(model: blyan.MoEModelManager) -> None:
    async def main() -> None:
        wrapped = aio.AsyncModel(model)
        token = blyan.CancelToken()
        task = asyncio.create_task(wrapped.generate_batch(LONG, ignore_eos=True, cancel=token))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not token.cancelled  # others may have it, too

        async def read() -> None:
            while True:
                async for _ in wrapped.stream(PROMPT, ignore_eos=True):
                    pass

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(read(), 0.05)
        with blyan.Chain.in_memory() as chain:
            work = asyncio.create_task(aio.import_checkpoint(chain, MODEL))
            await asyncio.sleep(0)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            assert len(chain) in (0, 47)

    asyncio.run(main())


def test_a_writer_of_the_loops_thread_is_not_waited_for() -> None:
    async def main() -> None:
        with blyan.Chain.in_memory() as chain, chain.writer():
            with pytest.raises(exceptions.BusyError):
                await asyncio.wait_for(aio.import_checkpoint(chain, MODEL), 30)

    asyncio.run(main())


def test_a_call_that_waits_for_a_thread_is_left_out(model: blyan.MoEModelManager) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        wrapped = aio.AsyncModel(model)
        token = blyan.CancelToken()
        first = asyncio.create_task(wrapped.generate_batch(LONG * 50, ignore_eos=True, cancel=token))
        await asyncio.sleep(0.05)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wrapped.generate(PROMPT), 0.05)
        # Nor does one whose token is set wait for another call's end.
        theirs = blyan.CancelToken()
        queued = asyncio.create_task(wrapped.generate(PROMPT, cancel=theirs))
        await asyncio.sleep(0.02)
        theirs.cancel()
        for call in (queued, wrapped.generate(PROMPT, cancel=theirs)):
            assert (await asyncio.wait_for(call, 10)).finish_reason == "cancelled"
        assert not first.done()
        token.cancel()
        await first

    asyncio.run(main())


def test_a_token_that_a_callback_sets_is_heard_before_the_next_step() -> None:
    async def main() -> None:
        token = blyan.CancelToken()

        def progress(report: blyan.ImportProgress) -> None:
            if report.blocks == report.total_blocks:
                token.cancel()

        with blyan.Chain.in_memory() as chain:
            with pytest.raises(exceptions.Cancelled):
                await aio.import_checkpoint(chain, MODEL, progress=progress, cancel=token)
            assert len(chain) == 0

    asyncio.run(main())


def test_a_stream_is_closed_though_its_task_was_cancelled_twice(model: blyan.MoEModelManager) -> None:
    async def main() -> None:
        session = aio.AsyncSession(model.session())

        async def read() -> None:
            async with session.stream(PROMPT * 20, 8) as stream:
                async for _ in stream:
                    pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await session.generate(PROMPT, 2)).tokens

    asyncio.run(main())
