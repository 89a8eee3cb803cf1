"""Tasks side by side."""

from __future__ import annotations

import asyncio
import gc

import pytest

from relay.tasks import cancel_and_wait, run_beside, to_its_end


async def test_run_beside_ends_with_main() -> None:
    """The result of main comes back and the others are cancelled."""
    ended = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def main() -> str:
        await asyncio.sleep(0)
        return "done"

    assert await run_beside(main(), forever()) == "done"
    assert ended.is_set()


async def test_run_beside_raises_the_first_error_as_it_is() -> None:
    """An error beside main ends main and is not wrapped in a group."""

    async def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await run_beside(asyncio.Event().wait(), fail())


async def test_run_beside_goes_on_when_an_other_returns() -> None:
    """An other that is finished does not end main."""
    gate = asyncio.Event()

    async def open_gate() -> None:
        gate.set()

    assert await run_beside(gate.wait(), open_gate())


async def test_a_cancelled_run_beside_ends_them_all() -> None:
    """A cancel of the caller leaves no task behind."""
    running = asyncio.create_task(run_beside(asyncio.Event().wait(), asyncio.Event().wait()))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_cancel_and_wait_consumes_errors() -> None:
    """A task that fails while being cancelled is waited for and says nothing."""

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("while ending")

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await cancel_and_wait([task])
    assert task.done()


async def test_what_must_not_be_cut_off_comes_to_its_end() -> None:
    """A cancel waits for it and goes on; after the time it is cut off all the same; its value and
    its error are the caller's."""
    ended = asyncio.Event()
    may_end = asyncio.Event()

    async def work(error: Exception | None = None) -> int:
        await may_end.wait()
        ended.set()
        if error is not None:
            raise error
        return 1

    for error in (None, ValueError("x")):
        may_end.clear()
        ended.clear()
        task = asyncio.create_task(to_its_end(work(error), timeout_s=10.0))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()
    assert await to_its_end(work(), timeout_s=1.0) == 1
    with pytest.raises(ValueError, match="x"):
        await to_its_end(work(ValueError("x")), timeout_s=1.0)
    ended.clear()
    may_end.clear()
    task = asyncio.create_task(to_its_end(work(), timeout_s=0.0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not ended.is_set()


async def test_errors_of_tasks_that_ended_before_are_fetched_too() -> None:
    """The loop would warn of them later, without a word of where they come from."""
    warned: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: warned.append(context["message"])
    )

    async def fail() -> None:
        raise ValueError("broken")

    task = asyncio.create_task(fail())
    await asyncio.wait([task])
    await cancel_and_wait([task])
    del task
    gc.collect()
    assert warned == []
