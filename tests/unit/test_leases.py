"""One session with prompts a server, and what the next process is told of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from relay.comfystream.leases import ServerLeases
from relay.comfystream.quarantine import QuarantineRules
from relay.comfystream.server_address import server_key
from relay.errors import RequestError
from relay.tasks import cancel_and_wait


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Process:
    """One relay process: its leases and what it saved."""

    def __init__(
        self, saved: dict[str, Any] | None = None, *, at: float = 1000.0, **options: Any
    ) -> None:
        self.saved: dict[str, Any] = {}
        self.clock = Clock(at)
        self.wall = Clock(at + 1_700_000_000)
        self.leases = ServerLeases(
            QuarantineRules(),
            None,  # type: ignore[arg-type] # nothing here asks a server
            saved=saved,
            save=self._save,
            clock=self.clock,
            wall_clock=self.wall,
            **options,
        )

    def _save(self, saved: dict[str, Any]) -> None:
        self.saved = saved


@pytest.mark.parametrize(
    "same",
    [
        "http://localhost:8889",
        "http://127.0.0.1:8889/",
        "http://LOCALHOST:8889/live",
        "http://[::1]:8889/live/",
        "http://0.0.0.0:8889",
    ],
)
def test_a_server_has_one_lease_however_it_is_written(same: str) -> None:
    """A trailing slash, the prefix, and this machine's names make no other server."""
    leases = Process().leases
    leases.acquire("http://127.0.0.1:8889", "first")
    with pytest.raises(RequestError) as caught:
        leases.acquire(same, "second")
    assert (caught.value.code, caught.value.http_status) == ("comfystream_busy", 409)
    assert "first" in caught.value.message


@pytest.mark.parametrize(
    "other",
    ["http://127.0.0.1:8890", "http://gpu:8889", "http://127.0.0.1:8889/two", "http://10.0.0.1"],
)
def test_other_servers_are_other_servers(other: str) -> None:
    """Another port, host or path."""
    assert server_key(other) != server_key("http://127.0.0.1:8889")


def test_a_released_server_can_be_taken_again() -> None:
    """By anyone, at once; releasing twice does no harm to the next one."""
    leases = Process().leases
    first = leases.acquire("http://gpu:8889", "first")
    first.release()
    second = leases.acquire("http://gpu:8889/", "second")
    first.release()
    with pytest.raises(RequestError):
        leases.acquire("http://gpu:8889", "third")
    second.release()


def test_a_session_that_left_nothing_is_not_remembered() -> None:
    """Nothing grows with the servers that were ever named."""
    process = Process()
    process.leases.acquire("http://gpu:8889", "first").release()
    assert process.saved == {}


async def test_what_was_in_use_when_the_process_was_killed_counts_as_left_now() -> None:
    """When it died is not known: the quarantine begins with the next process."""
    killed = Process()
    await killed.leases.acquire("http://gpu:8889", "first").begin_offer()
    later = Process(killed.saved, at=5000.0)
    record = later.leases.acquire("http://gpu:8889", "second")._record
    assert record.left_at == 5000.0
    assert record.abandoned


async def test_what_was_left_before_the_end_keeps_its_time() -> None:
    """By the wall clock, as the monotonic one begins anew."""
    ended = Process(at=1000.0)
    lease = ended.leases.acquire("http://gpu:8889", "first")
    await lease.begin_offer()
    lease.answered()
    lease.release()
    ended.clock.now = ended.wall.now = 0  # unused from here on
    later = Process(ended.saved, at=1030.0)
    record = later.leases.acquire("http://gpu:8889", "second")._record
    assert record.left_at == pytest.approx(1000.0, abs=0.01)
    assert not record.abandoned


async def test_a_clock_that_was_set_back_lengthens_nothing() -> None:
    """What seems to lie ahead was just now."""
    ended = Process(at=1000.0)
    lease = ended.leases.acquire("http://gpu:8889", "first")
    await lease.begin_offer()
    lease.unanswered()
    lease.release()
    later = Process(ended.saved, at=10.0)
    record = later.leases.acquire("http://gpu:8889", "second")._record
    assert (record.left_at, record.wedged_at) == (10.0, 10.0)


@pytest.mark.parametrize("saved", [{"a": 1}, {"a": {"phase": 7, "left_at": "x"}}, {"a": {}}])
def test_a_journal_that_makes_no_sense_is_no_obstacle(saved: dict[str, Any]) -> None:
    """Whatever it holds, the server can be taken."""
    Process(saved).leases.acquire("http://a", "first")


async def test_records_are_forgotten_when_they_mean_nothing_any_more() -> None:
    """An hour later nothing of a server is saved."""
    process = Process()
    lease = process.leases.acquire("http://gpu:8889", "first")
    await lease.begin_offer()
    lease.release()
    assert process.saved
    process.clock.now += 3600
    process.leases.acquire("http://other:8889", "second").release()
    assert process.saved == {}


async def test_an_offer_leaves_when_the_next_process_knows_of_it() -> None:
    """Not before it is written down; and if it is called off by then, nothing is held against the
    server."""
    on_disk = asyncio.Event()
    process = Process(written=on_disk.wait)
    lease = process.leases.acquire("http://gpu:8889", "first")
    offer = asyncio.ensure_future(lease.begin_offer())
    await asyncio.sleep(0)
    assert [entry["phase"] for entry in process.saved.values()] == ["offered"]
    assert not offer.done()
    on_disk.set()
    await offer
    lease.refused()
    on_disk.clear()
    offer = asyncio.ensure_future(lease.begin_offer())
    await asyncio.sleep(0)
    await cancel_and_wait([offer])
    assert process.saved == {}
