"""The door to the sessions: whom they may name, and what is shown of what they named."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from relay.config.settings import Settings
from relay.errors import RequestError
from relay.session.manager import SessionManager
from relay.session_config import SessionConfig

NOWHERE = "http://127.0.0.1:9"


def config(number: int = 0, **changes: Any) -> SessionConfig:
    values = {
        "input_stream_url": f"{NOWHERE}/in{number}",
        "output_stream_url": f"{NOWHERE}/out{number}",
        "comfystream_url": NOWHERE,
    }
    return SessionConfig(**(values | changes))


@asynccontextmanager
async def manager(**settings: Any) -> AsyncIterator[SessionManager]:
    sessions = SessionManager(Settings(**{"stop_timeout_s": 0.5} | settings))
    await sessions.start()
    try:
        yield sessions
    finally:
        await sessions.aclose()


@pytest.mark.parametrize("field", ["input_stream_url", "output_stream_url", "comfystream_url"])
async def test_a_host_that_is_not_allowed_is_refused_at_the_door(field: str) -> None:
    """403, with the field and the setting, and no session is made."""
    async with manager(allowed_hosts=("127.0.0.1",)) as sessions:
        with pytest.raises(RequestError) as caught:
            await sessions.start_session(config(**{field: "http://other.invalid/x"}))
        assert (caught.value.http_status, caught.value.code) == (403, "host_not_allowed")
        [fault] = caught.value.details["details"]
        assert fault["field"] == field
        assert "RELAY_ALLOWED_HOSTS" in fault["problem"]
        assert sessions.list() == []
        await sessions.start_session(config())


async def test_without_a_list_metadata_addresses_are_still_refused() -> None:
    """Every field that names one is listed."""
    metadata = "http://169.254.169.254/latest"
    async with manager() as sessions:
        with pytest.raises(RequestError) as caught:
            await sessions.start_session(
                config(input_stream_url=metadata, comfystream_url=metadata)
            )
        fields = [fault["field"] for fault in caught.value.details["details"]]
        assert fields == ["input_stream_url", "comfystream_url"]


@pytest.mark.parametrize("same", ["/out0/", "/out0?key=x", "/%6fut0"])
async def test_an_output_is_taken_however_it_is_written(same: str) -> None:
    """Two writers on one channel spoil it; another channel is another one."""
    async with manager() as sessions:
        await sessions.start_session(config())
        with pytest.raises(RequestError) as caught:
            await sessions.start_session(config(1, output_stream_url=NOWHERE + same))
        assert (caught.value.http_status, caught.value.code) == (409, "output_in_use")
        await sessions.start_session(config(1, output_stream_url=f"{NOWHERE}/OUT0"))


async def test_credentials_of_addresses_are_not_shown() -> None:
    """Neither in the status nor in the list; the session goes on using the real ones."""
    secret = {
        "input_stream_url": "http://user:hunter2@127.0.0.1:9/in?token=hunter2&quality=high",
        "output_stream_url": "http://127.0.0.1:9/out?sig=hunter2",
        "comfystream_url": "http://:hunter2@127.0.0.1:9",
    }
    async with manager() as sessions:
        session = await sessions.start_session(config(**secret))
        shown = json.dumps([session.status(), session.summary()])
        assert "hunter2" not in shown
        assert "http://***@127.0.0.1:9/in?token=***&quality=high" in shown
        assert session.config.input_stream_url == secret["input_stream_url"]
