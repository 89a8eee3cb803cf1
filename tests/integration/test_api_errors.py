"""Error answers: one shape, the right status, words that say what to do, never a 500."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import FormData

from relay.api import body as body_module
from relay.errors import BusyError, ProcessingError
from tests.fake_sessions import FakeSessions
from tests.integration.api_client import INVERT, Client, api_client, start_body
from tests.peers.waiting import until


@pytest.fixture
def sessions() -> FakeSessions:
    return FakeSessions(capacity=1)


@pytest.fixture
async def client(sessions: FakeSessions) -> AsyncIterator[Client]:
    async with api_client(sessions) as api:
        yield api


async def error_of(client: Client, method: str, path: str, status: int, **request: Any) -> Any:
    """The answer's body, once its shape is checked."""
    async with client.request(method, path, **request) as answer:
        assert answer.status == status, await answer.text()
        assert answer.content_type == "application/json"
        error = await answer.json()
    assert error["success"] is False
    assert error["error"]
    assert error["code"].replace("_", "").isalpha()
    assert error["request_id"] == answer.headers["X-Request-ID"]
    return error


async def start_error(client: Client, status: int, **request: Any) -> Any:
    return await error_of(client, "POST", "/session/start", status, **request)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/nowhere", "route_not_found"),
        ("GET", "/session", "route_not_found"),
        ("GET", "/sessions/", "route_not_found"),
        ("POST", "/%00%ff", "route_not_found"),
        ("GET", "/session/unknown/status", "session_not_found"),
        ("DELETE", "/session/unknown", "session_not_found"),
        ("DELETE", "/session/%2e%2e%2fx%0d%0aY:z", "session_not_found"),
    ],
)
async def test_what_is_not_there_is_404(client: Client, method: str, path: str, code: str) -> None:
    """Routes and sessions alike, told apart by code."""
    assert (await error_of(client, method, path, 404))["code"] == code


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/session/start", {"POST"}),
        ("PUT", "/sessions", {"GET", "HEAD"}),
        ("POST", "/session/x/status", {"GET", "HEAD"}),
        ("GET", "/session/x", {"DELETE"}),
        ("DELETE", "/health", {"GET", "HEAD"}),
    ],
)
async def test_wrong_method_is_405_with_allow(
    client: Client, method: str, path: str, allowed: set[str]
) -> None:
    """The answer and its header say which methods there are."""
    async with client.request(method, path) as answer:
        assert answer.status == 405
        assert set(answer.headers["Allow"].split(",")) >= allowed
        error = await answer.json()
    assert error["code"] == "method_not_allowed"
    assert all(method in error["error"] for method in allowed)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"{", "line 1, column 2"),
        (b"not json", "not JSON"),
        (b'{"prompts": NaN}', "NaN"),
        (b'{"width": 1e999}', "double"),
        (b'{"width": ' + b"9" * 5000 + b"}", "digits"),
        (b"\xff\xfe{}", "UTF-8"),
        (b'{"prompts":' * 20_000, "nested"),
        (b"[]", "object"),
        (b'"{}"', "object"),
        (b"null", "object"),
        (b"5", "object"),
    ],
)
async def test_what_is_not_a_json_object_is_400(client: Client, data: bytes, word: str) -> None:
    """The reason is given, the body is not repeated."""
    error = await start_error(client, 400, data=io.BytesIO(data))
    assert error["code"] == "invalid_json"
    assert word in error["error"]


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=latin-1",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/octet-stream",
        "",
        "nonsense;;;=",
    ],
)
async def test_json_is_read_whatever_its_label_says(client: Client, content_type: str) -> None:
    """`curl -d` labels JSON as a form; the body is what counts."""
    body = json.dumps(start_body()).encode()
    async with client.post(
        "/session/start", data=body, headers={"Content-Type": content_type}
    ) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    "form", [FormData({"prompts": "[]"}), FormData({"a": "b"}, default_to_multipart=True)]
)
async def test_forms_are_415(client: Client, form: FormData) -> None:
    """What is a form is not guessed into JSON."""
    error = await start_error(client, 415, data=form)
    assert error["code"] == "unsupported_media_type"
    assert "application/json" in error["error"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_body_is_413(client: Client, chunked: bool) -> None:
    """1 MiB is the limit, whether the length is announced or not."""
    text = json.dumps(start_body(prompts=["x" * 1024 * 1024])).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(text), 65536):
            yield text[at : at + 65536]

    error = await start_error(client, 413, data=pieces() if chunked else io.BytesIO(text))
    assert error["code"] == "body_too_large"
    assert "1048576" in error["error"]


async def test_large_body_is_refused_before_it_is_sent(client: Client) -> None:
    """The announced length is enough; the rest of the connection is not used."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"POST /session/start HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n")
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nConnection: close\r\n" in answer
    writer.write(b" " * 2_000_000)
    await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()


async def test_body_just_within_the_limit_is_read(client: Client) -> None:
    """The limit is what it says."""
    filler = 1024 * 1024 - len(json.dumps(start_body(prompts=[""])))
    text = json.dumps(start_body(prompts=["x" * filler])).encode()
    assert len(text) == 1024 * 1024
    error = await start_error(client, 422, data=io.BytesIO(text))
    assert error["details"][0]["field"] == "prompts[0]"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "nonsense"])
async def test_compressed_bodies_are_415(client: Client, encoding: str) -> None:
    """A small body that unpacks to a huge one is not even looked at."""
    bomb = gzip.compress(b" " * 50 * 1024 * 1024)
    error = await start_error(client, 415, data=bomb, headers={"Content-Encoding": encoding})
    assert "Content-Encoding" in error["error"]


async def test_connection_goes_on_after_an_error(client: Client) -> None:
    """One that was read to its end does not cost the client its connection."""
    async with client.post("/session/start", data=b"{") as answer:
        assert answer.status == 400
        assert "Connection" not in answer.headers


async def test_body_that_does_not_come_is_408(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow sender does not hold a handler for ever."""
    monkeypatch.setattr(body_module, "BODY_TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"POST /session/start HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
    answer = await asyncio.wait_for(reader.readuntil(b"}"), 5)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"body_timeout"' in answer
    writer.close()
    await writer.wait_closed()


async def test_every_fault_is_in_one_422(client: Client, sessions: FakeSessions) -> None:
    """Fields and nodes together, each with its problem; nothing was started."""
    broken = INVERT | {"3": {"class_type": "SaveTensor", "inputs": {"images": ["9", 0]}}}
    error = await start_error(
        client,
        422,
        json={"input_stream_url": "x", "prompts": [broken], "width": 5, "colour": 1},
    )
    assert error["code"] == "validation_failed"
    assert {detail["field"] for detail in error["details"]} == {
        "input_stream_url",
        "prompts[0]",
        "width",
        "colour",
    }
    [node_fault] = [d for d in error["details"] if d["field"] == "prompts[0]"]
    assert node_fault["node"] == "3"
    assert sessions.started == []


async def test_no_free_server_is_told_to_probes(client: Client, sessions: FakeSessions) -> None:
    """A load balancer sends nobody here while the pool is taken; who needs no server may start."""
    sessions.no_server = BusyError("none is free", code="no_server_free", servers=[])
    async with client.get("/readyz") as answer:
        assert answer.status == 503
        assert "Retry-After" in answer.headers
        assert (await answer.json())["code"] == "no_server_free"
    sessions.no_server = None
    async with client.get("/readyz") as answer:
        assert answer.status == 200


async def test_full_relay_is_503_with_retry_after(client: Client) -> None:
    """The caller learns when to ask again."""
    async with client.post("/session/start", json=start_body()):
        pass
    async with client.post(
        "/session/start", json=start_body(output_stream_url="http://h/other")
    ) as answer:
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "7"
        assert (await answer.json())["code"] == "full"


async def test_output_in_use_is_409(client: Client, sessions: FakeSessions) -> None:
    """What the session service refuses keeps its status and code."""
    sessions.capacity = 2
    async with client.post("/session/start", json=start_body()):
        pass
    assert (await start_error(client, 409, json=start_body()))["code"] == "output_in_use"


async def test_errors_of_the_relay_keep_their_status(
    client: Client, sessions: FakeSessions
) -> None:
    """A deliberate error that gets this far is translated, with its details."""
    details = {"server": "gpu-1", "status": "wedged", "success": True, "request_id": "x"}
    sessions.fails_with = ProcessingError("ComfyStream is gone", code="gone", **details)
    error = await start_error(client, 502, json=start_body())
    assert (error["code"], error["error"]) == ("gone", "ComfyStream is gone")
    assert error["server"] == "gpu-1"
    assert error["status"] == "wedged"


@pytest.mark.parametrize(
    "width", ["000000001" + "0" * 5000, "0000000019999999", "4097", "0", "many", "٤"]
)
async def test_a_width_that_is_none_is_422(client: Client, width: str) -> None:
    """However many digits there are of it."""
    async with client.post("/session/start", json=start_body()) as answer:
        session_id = (await answer.json())["session_id"]
    path = f"/session/{session_id}/preview/output.jpg"
    error = await error_of(client, "GET", path, 422, params={"width": width})
    assert error["details"][0]["field"] == "width"


async def test_our_own_fault_is_500_and_tells_nothing(
    client: Client, sessions: FakeSessions, capfd: pytest.CaptureFixture[str]
) -> None:
    """The client gets an id, the log the traceback under that id."""
    sessions.fails_with = ZeroDivisionError("hunter2 in /srv/relay/session/session.py")
    error = await start_error(client, 500, json=start_body())
    assert error["code"] == "internal_error"
    assert "hunter2" not in json.dumps(error)
    logged = "".join(capfd.readouterr())
    assert "ZeroDivisionError" in logged
    assert error["request_id"] in logged


async def test_our_own_fault_is_logged_also_when_the_client_has_gone(
    client: Client, sessions: FakeSessions, capfd: pytest.CaptureFixture[str]
) -> None:
    """That nobody reads the answer makes it no less a fault."""
    sessions.fails_with = ZeroDivisionError("a fault of ours")
    sessions.may_start.clear()
    asking = asyncio.create_task(start_error(client, 500, json=start_body()))
    await sessions.entered.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    # The server has seen the close when it has served another connection after it.
    for _ in range(3):
        async with client.get("/health"):
            pass
    sessions.may_start.set()
    logged = ""

    def is_told() -> bool:
        nonlocal logged
        logged += "".join(capfd.readouterr())
        return "ZeroDivisionError: a fault of ours" in logged

    await until(is_told)
    assert "http.internal_error" in logged
