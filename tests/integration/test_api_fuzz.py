"""Anything may be sent to the API: it answers below 500, in time, and keeps no session."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from tests.fake_sessions import FakeSessions
from tests.fuzz.examples import examples
from tests.integration.api_client import INVERT, Client, api_client, start_body

LIMIT_S = 10

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["http://h/x", "http://h/y", "http://[", "contain", 512, 513, 1.5, -1]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
node = st.fixed_dictionaries(
    {},
    optional={
        "class_type": st.sampled_from(["LoadTensor", "SaveTensor", "LoadImage"]) | json_values,
        "inputs": st.dictionaries(st.text(max_size=3), json_values, max_size=2) | json_values,
    },
)
prompts = st.one_of(
    st.just([]),
    st.just([INVERT]),
    st.just(json.dumps(INVERT)),
    st.fixed_dictionaries({"text": st.text(max_size=20)}),
    st.dictionaries(st.sampled_from("123"), node, max_size=3),
    json_values,
)
start_requests = st.builds(
    lambda base, changes, dropped: {k: v for k, v in (base | changes).items() if k not in dropped},
    st.builds(start_body, prompts=prompts),
    st.dictionaries(
        st.sampled_from(
            [
                *("input_stream_url", "output_stream_url", "comfystream_url"),
                *("width", "height", "fit", "segment_seconds"),
            ]
        )
        | st.text(max_size=5),
        json_values,
        max_size=3,
    ),
    st.sets(st.sampled_from(["input_stream_url", "comfystream_url", "prompts"]), max_size=1),
)
bodies = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    json_values.map(lambda value: json.dumps(value).encode()),
    start_requests.map(lambda value: json.dumps(value).encode()),
    # A valid request with a piece cut out or doubled.
    st.builds(
        lambda value, at, size: value[:at] + value[at + size :],
        start_requests.map(lambda value: json.dumps(value).encode()),
        st.integers(0, 200),
        st.integers(-5, 5),
    ),
)
ROUTES = [
    *("/session/start", "/sessions", "/health", "/readyz", "/version", "/", "/session/x/status"),
    *("/session/x", "/session//status", "/session/start/status"),
]
TOKEN = "the-token"
visible = st.text(
    st.characters(min_codepoint=32, max_codepoint=255, exclude_categories=["Cc"]), max_size=20
)
paths = st.one_of(
    st.sampled_from(ROUTES),
    st.builds(
        lambda path, query: f"{path}?{quote(query, safe='=&')}",
        st.sampled_from(ROUTES),
        st.text(max_size=20) | st.sampled_from(["ended=true", "ended=maybe", "ended=1&ended=2"]),
    ),
    st.text(st.characters(codec="utf-8"), max_size=20).map(lambda text: f"/session/{quote(text)}"),
    st.binary(max_size=10).map(lambda raw: "/" + "".join(f"%{byte:02x}" for byte in raw)),
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.sampled_from(
            ["application/json", "text/plain", "multipart/form-data", "x", "a/b;charset=zz"]
        ),
        "Content-Encoding": st.sampled_from(["gzip", "deflate", "identity", "zz"]),
        "Origin": st.sampled_from(["null", "http://x", "http://[", "https://a.example"]),
        "Authorization": st.sampled_from(["Bearer", f"Bearer {TOKEN}", f"Basic {TOKEN}"]) | visible,
        "Access-Control-Request-Method": st.sampled_from(["POST", "get", "*", ""]),
        "Access-Control-Request-Headers": visible,
        "Accept-Encoding": visible,
        "Cookie": visible,
        "Expect": st.just("x"),  # 417, before any handler of ours
        "Range": st.sampled_from(["bytes=0-1", "x"]),
        "X-Forwarded-For": visible,
        "X-Request-ID": st.text("abc -\t{}\"'<>", max_size=20),
    },
)


async def check_answer(
    client: Client, sessions: FakeSessions, method: str, path: URL, **request: Any
) -> None:
    async with asyncio.timeout(LIMIT_S), client.request(method, path, **request) as answer:
        text = await answer.text()
        assert answer.status < 500, text
        if method != "HEAD" and answer.status >= 400 and answer.status != 417:
            error = json.loads(text)
            assert error["success"] is False
            assert error["code"]
        started = answer.status == 200 and method == "POST" and path.path == "/session/start"
    for session in sessions.list():
        assert started, "a session nobody was told of"
        assert session.session_id == json.loads(text)["session_id"]
        json.dumps(session.config.prompts, allow_nan=False)
        assert URL(session.config.output_stream_url).host
        async with client.delete(f"/session/{session.session_id}") as answer:
            assert answer.status == 200
    assert sessions.list() == []


@examples(150)
@given(
    method=st.sampled_from(["POST", "GET", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"]),
    path=paths,
    body=bodies,
    extra=headers,
    options=st.sampled_from([{}, {}, {"cors_origins": ("https://a.example",)}]),
)
async def test_any_request_to_any_route(
    method: str, path: str, body: bytes, extra: dict[str, str], options: dict[str, Any]
) -> None:
    """Random methods, paths, headers and bodies."""
    sessions = FakeSessions()
    async with api_client(sessions, **options) as client:
        url = URL(path, encoded=True)
        await check_answer(client, sessions, method, url, data=io.BytesIO(body), headers=extra)


@examples(60)
@given(
    method=st.sampled_from(["POST", "GET", "DELETE", "OPTIONS"]),
    path=paths,
    extra=headers,
)
async def test_nothing_gets_past_the_token(method: str, path: str, extra: dict[str, str]) -> None:
    """Whatever is asked, in whatever way, without the token it is 401, or one of the probes, or a
    browser's question, or no HTTP."""
    sessions = FakeSessions()
    async with api_client(sessions, api_token=TOKEN) as client:
        url = URL(path, encoded=True)
        body = json.dumps(start_body())
        async with (
            asyncio.timeout(LIMIT_S),
            client.request(method, url, data=body, headers=extra) as answer,
        ):
            brought = extra.get("Authorization", "").lower().startswith("bearer ") and (
                extra["Authorization"].partition(" ")[2].strip() == TOKEN
            )
            probe = url.path in ("/health", "/readyz")
            preflight = method == "OPTIONS" and "Access-Control-Request-Method" in extra
            malformed = answer.status == 400 or "Expect" in extra
            assert brought or probe or preflight or malformed or answer.status == 401
    assert brought or sessions.started == []


@examples(150)
@given(body=bodies)
async def test_any_body_to_start(body: bytes) -> None:
    """The call that makes sessions, with bodies from noise to nearly right."""
    sessions = FakeSessions()
    async with api_client(sessions) as client:
        await check_answer(client, sessions, "POST", URL("/session/start"), data=io.BytesIO(body))


@examples(100)
@given(
    head=st.sampled_from(
        [
            b"",
            b"POST /session/start HTTP/1.1\r\nHost: x\r\n",
            b"POST /session/start HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST /session/start HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
            b"GET /sessions HTTP/1.1\r\nHost: x\r\nX-Request-ID: ",
            b"GET /sessions HTTP/1.1\r\nHost: x\r\nAuthorization: ",
            b"GET /session/",
            b"OPTIONS * HTTP/1.1\r\nHost: ",
        ]
    ),
    raw=st.binary(max_size=200),
)
async def test_any_bytes_on_the_socket(head: bytes, raw: bytes) -> None:
    """What is not HTTP gets an answer or a closed connection, and others are served on."""
    sessions = FakeSessions()
    async with api_client(sessions) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(head + raw)
        writer.write_eof()
        async with asyncio.timeout(LIMIT_S):
            answer = await reader.read()
        assert b" 500 " not in answer.split(b"\r\n")[0]
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(LIMIT_S), client.get("/health") as health:
            assert health.status == 200
    assert sessions.started == []
