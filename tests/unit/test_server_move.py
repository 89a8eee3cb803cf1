"""When a session leaves its server, and when it stays."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from relay.comfystream.leases import ServerLease
from relay.errors import BusyError, ProcessingError
from relay.processing.live_changes import LiveChanges
from relay.processing.server_move import AFTER_ANOTHER_TRY, AT_ONCE, ServerMove
from relay.session_config import SessionConfig

HOME = "http://gpu-1:8889"


class Pool:
    """Servers that are all free."""

    def __init__(self, *urls: str) -> None:
        self.urls = urls

    def any_free(self, *, prompts: bool, without: Collection[str]) -> bool:
        return bool(set(self.urls) - set(without))

    async def choose(self, *, prompts: bool, without: Collection[str]) -> str:
        for url in self.urls:
            if url not in without:
                return url
        raise BusyError("none of them is free", code="no_server_free")


class Scene:
    """A session without prompts on the first server of a pool."""

    def __init__(self, pool: Pool | None) -> None:
        config = SessionConfig("http://h/in", "http://h/out", HOME, pooled=True)
        self.changes = LiveChanges(
            config, None, self.no_lease, lambda _: None, update_timeout_s=1.0
        )
        self.move = ServerMove(pool, self.changes)

    def no_lease(self, url: str) -> ServerLease:
        raise AssertionError(f"a lease of {url} for a session without prompts")

    async def fails(self, code: str, *, answered: bool = False) -> str:
        """Where the session is after a failure."""
        try:
            url = await self.move.choose(ProcessingError("it failed", code=code), answered=answered)
        except ProcessingError as error:
            self.problem, self.code = error.message, error.code
        else:
            self.changes.move_to(url)
        return self.changes.config.comfystream_url


@pytest.mark.parametrize("code", sorted(AT_ONCE))
async def test_a_server_that_is_of_no_use_now_is_left_at_once(code: str) -> None:
    """For the next of the pool; what the session has is otherwise as it was."""
    scene = Scene(Pool(HOME, "http://gpu-2:8889"))
    assert scene.move.would_help()
    assert await scene.fails(code) == "http://gpu-2:8889"
    assert scene.move.moves == 1
    assert scene.changes.config.input_stream_url == "http://h/in"


@pytest.mark.parametrize("code", sorted(AFTER_ANOTHER_TRY))
async def test_a_server_that_failed_gets_another_try(code: str) -> None:
    """It has the workflow loaded. Failures with pictures between them are not in a row."""
    scene = Scene(Pool(HOME, "http://gpu-2:8889"))
    assert await scene.fails(code) == HOME
    assert await scene.fails(code, answered=True) == HOME
    assert await scene.fails(code) == "http://gpu-2:8889"
    assert await scene.fails(code) == "http://gpu-2:8889"
    assert await scene.fails(code) == HOME


async def test_what_is_refused_is_tried_on_each_server_once() -> None:
    """Then the session stays, and says why; once it has worked, all may be tried again."""
    scene = Scene(Pool(HOME, "http://gpu-2:8889", "http://gpu-3:8889"))
    visited = [await scene.fails("comfystream_refused") for _ in range(4)]
    assert visited == ["http://gpu-2:8889", *["http://gpu-3:8889"] * 3]
    assert (scene.problem, scene.code) == (
        "it failed; none of them is free",
        "comfystream_refused",
    )
    assert not scene.move.would_help()
    assert await scene.fails("comfystream_refused", answered=True) == HOME


async def test_offers_without_an_answer_do_not_take_server_after_server() -> None:
    """A workflow that hangs one may hang the next: two, and no more."""
    scene = Scene(Pool(*(f"http://gpu-{number}:8889" for number in range(1, 6))))
    visited = [await scene.fails("comfystream_timeout") for _ in range(4)]
    assert set(visited) == {"http://gpu-2:8889"}


@pytest.mark.parametrize("code", ["no_candidates", "media_error"])
async def test_what_is_not_the_servers_fault_moves_nobody(code: str) -> None:
    """Another one would not help."""
    scene = Scene(Pool(HOME, "http://gpu-2:8889"))
    for _ in range(3):
        assert await scene.fails(code) == HOME


async def test_a_session_that_named_its_server_stays_with_it() -> None:
    """The choice was its own."""
    scene = Scene(None)
    assert not scene.move.would_help()
    assert await scene.fails("comfystream_unreachable") == HOME
    assert (scene.problem, scene.move.moves) == ("it failed", 0)
