"""What every test gets: it fails if it leaves tasks, threads or client sessions behind.

Unclosed sockets and sessions surface as ResourceWarning, which pyproject.toml turns into an
error; this module adds what Python does not warn about by itself.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

pytest_plugins = ["tests.run_again"]


def pytest_collection_finish() -> None:
    """Exempt all that the imports made from collection: each test collects its own left-overs,
    which costs 50 ms a test otherwise."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
async def no_leaked_tasks(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Fails an async test that ends with tasks of its own still pending."""
    before = asyncio.all_tasks()
    yield
    # One turn of the loop lets callbacks of tasks that just ended run.
    for _ in range(5):
        await asyncio.sleep(0)
    leaked = {t for t in asyncio.all_tasks() - before if t is not asyncio.current_task()}
    assert not leaked, f"tasks left behind: {sorted(str(t.get_coro()) for t in leaked)}"


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """Fails a test that ends with more threads than it began with.

    asyncio's own default executor is exempt: its idle workers end with the loop.
    """
    before = set(threading.enumerate())
    yield
    gc.collect()
    leaked = [
        t
        for t in threading.enumerate()
        if t not in before and t.is_alive() and not t.name.startswith("asyncio_")
    ]
    for thread in leaked:
        thread.join(timeout=2)
    alive = [t.name for t in leaked if t.is_alive()]
    assert not alive, f"threads left behind: {alive}"
