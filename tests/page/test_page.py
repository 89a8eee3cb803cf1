"""The page at `/` in a real browser, against a real relay: what an operator does with it.

What these tests see is kept as pictures in test-artifacts/page/.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from axe_playwright_python.async_playwright import Axe
from numpy.typing import NDArray
from playwright.async_api import Page, expect

from demo import barcode
from demo.live_publisher import publish_live
from demo.test_pattern import PatternOptions, generate
from relay.api.app import make_runner
from relay.api.keys import SESSIONS
from relay.api.page_routes import page_files
from relay.config.settings import Settings
from relay.session_config import SessionConfig
from tests.e2e.stack import INVERT, Stack, in_background, running_stack
from tests.page.browser import PHONE, WAIT_MS, Visit, visiting
from trickle_relay_service import create_app

pytestmark = pytest.mark.timeout(180)

expect.set_options(timeout=WAIT_MS)
TOKEN = "s3cret+as/operators=have-them"
AS_IT_IS = {
    "1": {"class_type": "LoadTensor", "inputs": {}},
    "2": {"class_type": "SaveTensor", "inputs": {"images": ["1", 0]}},
}
TALKS = {
    "1": {"class_type": "LoadTensor", "inputs": {}},
    "2": {"class_type": "SaveTensor", "inputs": {"images": ["1", 0]}},
    "3": {"class_type": "FrameNumber", "inputs": {"image": ["1", 0]}},
    "4": {"class_type": "SaveTextTensor", "inputs": {"data": ["3", 0]}},
}
NO_OUTPUT = {"7": {"class_type": "LoadTensor", "inputs": {}}}
GRAY = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let luma = "";
  for (let at = 0; at < data.length; at += 4) luma += String.fromCharCode(data[at]);
  return [canvas.width, canvas.height, btoa(luma)];
}"""


@asynccontextmanager
async def live_stack() -> AsyncIterator[Stack]:
    """Everything that a session needs, and a source on the channel `camera`."""
    pattern = PatternOptions(plain=True)
    async with running_stack() as stack:
        async with in_background(publish_live(stack.channel("camera"), generate(pattern))):
            yield stack


@asynccontextmanager
async def lone_relay(port: int = 0, **settings: object) -> AsyncIterator[tuple[str, web.AppRunner]]:
    """A relay and nothing else; its address."""
    settings.setdefault("comfystream_url", "http://127.0.0.1:9")
    runner = make_runner(create_app(Settings(**settings)))  # type: ignore[arg-type]
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", runner
    finally:
        await runner.cleanup()


async def picture_in(page: Page, name: str) -> tuple[int, bool] | None:
    """The number that the picture called `name` shows, and whether it is inverted."""
    canvas = page.get_by_role("img", name=re.compile(f"^{name}:"))
    width, height, encoded = await canvas.evaluate(GRAY)
    luma: NDArray[np.uint8] = np.frombuffer(base64.b64decode(encoded), np.uint8)
    reading = barcode.read(luma.reshape(height, width))
    return (reading.number, reading.inverted) if reading else None


async def see(page: Page, name: str, *, inverted: bool, after: int = -1) -> int:
    """Wait for a picture with a number above `after`; its number."""
    async with asyncio.timeout(WAIT_MS / 1000):
        while True:
            seen = await picture_in(page, name)
            if seen is not None and seen[1] is inverted and seen[0] > after:
                return seen[0]
            # Another process draws; it can only be looked at again.
            await asyncio.sleep(0.05)


async def fill_prompts(page: Page, workflow: object) -> None:
    await (
        page.get_by_label("Workflow, in ComfyUI")
        .locator("visible=true")
        .fill(workflow if isinstance(workflow, str) else json.dumps(workflow))
    )


async def test_a_session_from_its_start_to_its_end() -> None:
    """Started through the form; both pictures move, the output inverted; another prompt shows in
    the picture; a ComfyStream that dies is told of; stopped after a question."""
    async with live_stack() as stack, visiting(stack.relay_url) as visit:
        page = visit.page
        await expect(page.get_by_text("No session runs.")).to_be_visible()
        await page.get_by_role("button", name="Start one here").click()
        await page.get_by_label("Input channel").fill(stack.channel("camera"))
        await fill_prompts(page, INVERT[0])
        await page.get_by_role("button", name="Start", exact=True).click()

        head = page.locator(".card-head")
        await expect(head).to_have_attribute("aria-expanded", "true")
        await expect(head.locator(".state")).to_have_text("active")
        first_in = await see(page, "In", inverted=False)
        first_out = await see(page, "Out", inverted=True)
        await see(page, "In", inverted=False, after=first_in)
        await see(page, "Out", inverted=True, after=first_out)
        await expect(page.locator("[data-stage=decoder] .figure")).not_to_have_text("0.0")
        await expect(page.locator(".events")).to_contain_text("first picture out")
        await visit.screenshot("session")

        await page.get_by_role("button", name="Change prompts").click()
        await fill_prompts(page, AS_IT_IS)
        await page.get_by_role("button", name="Change", exact=True).click()
        await expect(page.locator("#toast")).to_have_text("ComfyStream runs it.")
        await see(page, "Out", inverted=False)
        await expect(page.locator(".events")).to_contain_text("change of prompts applied")

        stack.comfystream.kill()
        await expect(head.locator(".state")).to_have_text("reconnecting")
        await expect(page.locator(".diagnosis .problem")).to_be_visible()
        await visit.screenshot("comfystream-gone")

        await page.get_by_role("button", name="Stop…").click()
        await page.get_by_role("button", name="Let it run").click()
        await expect(head).to_be_visible()
        await page.get_by_role("button", name="Stop…").click()
        await page.get_by_role("button", name="Stop it").click()
        await expect(page.locator("#ended li")).to_contain_text("stopped on request")
        await expect(page.get_by_text("No session runs.")).to_be_visible()
        visit.assert_clean("willReadFrequently")  # of reading the pictures back, here
        assert [s.state.value for s in stack.sessions.list(ended=True)] == ["stopped"]


async def test_pictures_that_are_copied() -> None:
    """Chosen in the form, and the path says which side it is."""
    async with live_stack() as stack, visiting(stack.relay_url) as visit:
        page = visit.page
        await page.get_by_role("button", name="Start one here").click()
        await page.get_by_label("Input channel").fill(stack.channel("camera"))
        await page.get_by_text("Size, sound, copying and overload").click()
        await page.get_by_label("Pictures to ComfyStream").select_option("copy")
        await page.get_by_role("button", name="Start", exact=True).click()
        await expect(page.locator("[data-stage=decoder] .stage-name")).to_have_text("Copied")
        await expect(page.locator("[data-stage=encoder] .stage-name")).to_have_text("Encode")
        await page.get_by_text("Addresses and settings").click()
        copying = "to ComfyStream copied, from it decoded and encoded"
        await expect(page.get_by_text(copying)).to_be_visible()
        visit.assert_clean()


async def test_text_is_read_along() -> None:
    """What the workflow says comes line by line, for as long as somebody wants it."""
    async with live_stack() as stack, visiting(stack.relay_url) as visit:
        session_id = await stack.start("camera", prompts=[TALKS])
        page = visit.page
        await page.get_by_role("button", name="Read along").click()
        await expect(page.locator(".texts li").first).to_have_text(re.compile(r"\d+"))
        await page.get_by_role("button", name="Stop reading").click()
        await stack.wait_for_status(session_id, lambda s: s["text"]["listeners"] == 0)
        visit.assert_clean()


async def test_what_is_wrong_stands_at_its_field() -> None:
    """Each fault in the relay's words at the field it is about, which has the focus; and a call for
    the shell that says the same as the form."""
    async with lone_relay() as (url, _), visiting(url) as visit:
        page = visit.page
        await page.locator("#start").click()
        start = page.get_by_role("button", name="Start", exact=True)
        await start.click()
        await expect(page.locator("#input_stream_url-fault")).to_contain_text("is missing")
        await page.get_by_label("Input channel").fill("camera")
        await page.get_by_text("Size, sound, copying and overload").click()
        await page.get_by_label("Width").fill("99999")
        await fill_prompts(page, NO_OUTPUT)
        await start.click()
        await expect(page.locator("#input_stream_url-fault")).to_contain_text("http://")
        await expect(page.locator("#width-fault")).not_to_be_empty()
        await expect(page.get_by_label("Input channel")).to_be_focused()
        await expect(page.get_by_label("Input channel")).to_have_attribute("aria-invalid", "true")
        await expect(page.locator(".prompts .fault li").first).to_be_visible()
        await visit.screenshot("faults")
        await fill_prompts(page, '{"1": ')
        await page.get_by_label("Input channel").fill("http://127.0.0.1:9/it's")
        await start.click()
        await expect(page.locator(".prompts .fault")).to_contain_text("is no JSON")
        await fill_prompts(page, INVERT[0])
        await page.evaluate(
            "Object.defineProperty(navigator, 'clipboard',"
            " {value: {writeText: words => { window.copied = words; }}})"
        )
        await page.locator("#start-copy").click()
        command = await page.evaluate("window.copied")
        visit.assert_clean("status of 422")
    shell = await asyncio.create_subprocess_exec(
        *["sh", "-c", f'curl() {{ printf "%s\\n" "$@"; }}; {command}'],
        stdout=asyncio.subprocess.PIPE,
    )
    words = (await shell.communicate())[0].decode().splitlines()
    assert words[:3] == ["-X", "POST", f"{url}/session/start"]
    assert json.loads(words[-1]) == {
        "input_stream_url": "http://127.0.0.1:9/it's",
        "width": 99999,
        "prompts": INVERT[0],
    }


async def test_the_token_is_asked_for_once() -> None:
    """A wrong one is refused with a word; the right one holds, also over a reload; no address has
    it, and commands name the variable."""
    async with lone_relay(api_token=TOKEN) as (url, _), visiting(url) as visit:
        page, addresses = visit.page, list[str]()
        page.on("request", lambda request: addresses.append(request.url))
        dialog = page.get_by_role("dialog", name="This relay wants its token")
        await dialog.get_by_label("Token").fill("wrong")
        await dialog.get_by_label("Token").press("Enter")
        await expect(dialog).to_contain_text("That is not")
        await dialog.get_by_label("Token").fill(TOKEN)
        await dialog.get_by_role("button", name="Go on").click()
        await expect(page.get_by_text("No session runs.")).to_be_visible()
        await expect(page.locator("#empty-command")).to_contain_text("$RELAY_API_TOKEN")
        await page.reload()
        await expect(page.get_by_text("No session runs.")).to_be_visible()
        await expect(dialog).not_to_be_visible()
        assert TOKEN not in await page.content()
        assert not any("token" in address.partition("?")[2] for address in addresses)
        visit.assert_clean("status of 401")


async def test_a_relay_that_restarts() -> None:
    """The page says that it is gone, and goes on by itself when it is back."""
    async with visiting_two_relays() as (visit, runner, port):
        page = visit.page
        await expect(page.locator("#link-words")).to_have_text("live")
        await runner.cleanup()
        await expect(page.locator("#notice")).to_contain_text("does not answer")
        await expect(page.locator("#link-words")).to_have_text("no connection")
        async with lone_relay(port):
            await expect(page.locator("#link-words")).to_have_text("live")
            await expect(page.locator("#notice")).not_to_be_visible()
            await expect(page.locator("#toast")).to_contain_text("Connected to the relay again")
        visit.assert_clean("net::ERR", "status of 503")


@asynccontextmanager
async def visiting_two_relays() -> AsyncIterator[tuple[Visit, web.AppRunner, int]]:
    async with lone_relay() as (url, runner), visiting(url) as visit:
        yield visit, runner, int(url.rpartition(":")[2])


async def start_many(runner: web.AppRunner, number: int) -> None:
    """Sessions whose channels never come."""
    sessions = runner.app[SESSIONS]  # type: ignore[index]
    for index in range(number):
        address = f"http://127.0.0.1:9/camera-{index}"
        await sessions.start_session(
            SessionConfig(address, f"{address}-processed", "http://127.0.0.1:9")
        )


async def test_fifty_sessions() -> None:
    """A line each, closed, found by a word; one that ends leaves its line."""
    async with lone_relay() as (url, runner):
        await start_many(runner, 50)
        async with visiting(url) as visit:
            page = visit.page
            await expect(page.locator(".card")).to_have_count(50)
            assert await page.locator("canvas").count() == 0
            await expect(page.locator("#counts")).to_contain_text("50 run")
            await page.get_by_label("Show only").fill("camera-17")
            await expect(page.locator(".card:visible")).to_have_count(1)
            await page.locator(".card-head:visible").click()
            await expect(page.locator("canvas")).to_have_count(2)
            await page.get_by_label("Show only").fill("")
            await expect(page.locator(".card:visible")).to_have_count(50)
            await visit.screenshot("fifty")
            visit.assert_clean("status of 404")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_on_a_phone_by_keyboard_for_everybody(scheme: str) -> None:
    """360 pixels without scrolling sideways; all that a mouse can do a keyboard can; and axe-core
    finds nothing against it (WCAG 2.2 A and AA), contrast in both colour schemes included."""
    async with lone_relay() as (url, runner):
        await start_many(runner, 2)
        async with visiting(url, viewport=PHONE, color_scheme=scheme) as visit:
            page = visit.page
            await expect(page.locator(".card")).to_have_count(2)
            await page.keyboard.press("Tab")
            await expect(page.get_by_role("link", name="To the sessions")).to_be_focused()
            await page.keyboard.press("Tab")
            await expect(page.locator("#start")).to_be_focused()
            await page.keyboard.press("Tab")
            await expect(page.locator(".card-head").first).to_be_focused()
            await page.keyboard.press("Enter")
            await expect(page.locator(".path")).to_be_visible()
            await page.get_by_text("Addresses and settings").click()
            await page.locator("summary", has_text="Copy as curl").click()
            await page.get_by_role("button", name="Change prompts").focus()
            await page.keyboard.press("Enter")
            await expect(page.get_by_label("What ComfyStream runs").first).to_be_visible()
            await assert_good(visit, f"phone-{scheme}")
            await page.locator("#start").focus()
            await page.keyboard.press("Space")
            await expect(page.get_by_label("Input channel")).to_be_focused()
            await page.get_by_text("Size, sound, copying and overload").click()
            await assert_good(visit, f"phone-form-{scheme}")
            await page.keyboard.press("Escape")
            await expect(page.locator("#start")).to_be_focused()
            visit.assert_clean("status of 404")


async def assert_good(visit: Visit, name: str) -> None:
    """Nothing scrolls sideways, nothing is said against it."""
    await visit.screenshot(name)
    wide = await visit.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"{name} is {wide} pixels too wide"
    results = await Axe().run(visit.page)
    assert results.violations_count == 0, results.generate_report()


async def test_its_files_are_served_with_care() -> None:
    """Everything from the relay, nothing inline, none taken for something else; kept by browsers
    until they change."""
    async with lone_relay(api_token=TOKEN) as (url, _), aiohttp.ClientSession() as http:
        async with http.get(url, headers={"Accept": "text/html"}) as answer:
            index = await answer.text()
            assert (answer.status, answer.headers["Vary"]) == (200, "Accept")
        found = re.findall(r'(?:href|src)="(page/[\w.]+)"', index)
        assert {"page/main.js", "page/page.css", "page/icon.svg"} <= set(found)
        assert not re.search(
            r"<style|<script(?! type=\"module\" src=)| on\w+=| style=|https?://(?!host)", index
        )
        for path in found:
            async with http.get(f"{url}/{path}") as answer:
                assert answer.status == 200
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                policy = answer.headers["Content-Security-Policy"]
                assert policy.startswith("default-src 'none'")
                assert "unsafe" not in policy
                etag = answer.headers["ETag"]
            async with http.get(f"{url}/{path}", headers={"If-None-Match": etag}) as answer:
                assert answer.status == 304
        for path in ("page/nothing.js", "page/..%2Fconfig.py", "page/"):
            async with http.get(f"{url}/{path}") as answer:
                assert answer.status == 404, path
        async with http.get(url) as answer:
            assert answer.status == 401
        async with http.get(f"{url}/sessions", headers={"Accept": "text/html"}) as answer:
            assert answer.status == 401


def test_the_page_is_made_from_text_only() -> None:
    """Nothing that a stream's name or a server's words could become markup or code by."""
    scripts = {name: f.body.decode() for name, f in page_files().items() if name.endswith(".js")}
    assert len(scripts) > 5
    for name, text in scripts.items():
        unsafe = re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|Function\(", text
        )
        assert unsafe is None, name
