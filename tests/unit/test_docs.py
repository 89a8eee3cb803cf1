"""README.md and docs/ say what is there: links, routes, fields, codes, names."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relay.api.app import build_app
from relay.api.models import StartRequest
from relay.config.settings import Settings, variable_name
from relay.observe.event_hub import EventKind
from relay.processing.link_record import LinkState
from relay.resources import PipelineResources
from relay.session import manager as sessions_module
from relay.session.session import Session
from relay.session_config import Fit, SessionConfig
from relay.session_state import EndReason, SessionState
from tests.fake_sessions import FakeSessions

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
API = ROOT / "docs" / "api.md"
OPERATE = ROOT / "docs" / "operate.md"
TROUBLE = ROOT / "docs" / "troubleshooting.md"
README = ROOT / "README.md"
TOPS = (ROOT, ROOT / "relay", ROOT / "docs")

NOT_FOR_CLIENTS = {
    "invalid_settings": "on the command line only",
    "invalid_text_workflow": "on the command line only",
    "invalid_prompts": "becomes validation_failed",
    "segment_too_large": "of SubscribedSegment.read, which the relay does not use",
    "bad_sps": "caught where it is raised: the picture goes on without its facts",
    "decoder_closed": "a use after the end",
    "encoder_closed": "a use after the end",
    "control_timeout": "the relay goes on without that answer of ComfyStream's",
    "control_closed": "as control_timeout",
    "control_failed": "as control_timeout",
    "client_gone": "nobody is there to read it",
}
"""Codes that no answer and no status can hold, and why."""


def page_id(path: Path) -> str:
    return path.name


def prose(path: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^ *```.*?^ *```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """The headings of a page as links name them: lower case, words joined by hyphens."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(path: Path, heading: str) -> str:
    """What stands under a heading, up to the next one of its kind or above."""
    level, text = heading.split(" ")[0], path.read_text()
    assert f"\n{heading}\n" in text, f"{path.name} has no {heading}"
    rest = text.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str) -> set[str]:
    """What stands in code marks in the first column of the tables in `text`."""
    rows = re.findall(r"^ *\|(.*?)\|", text, re.MULTILINE)
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


def json_blocks(path: Path) -> list[Any]:
    """The JSON examples of a page."""
    blocks = re.findall(r"^```json\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    return [json.loads(block) for block in blocks]


@cache
def service_modules() -> tuple[Path, ...]:
    """What the service loads of relay/; command lines of their own are not among it."""
    script = (
        "import sys, trickle_relay_service;"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'relay'))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return tuple(Path(name) for name in result.stdout.split())


# -- every page ------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file of ours finds the file, and the heading it names."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_files_that_are_named_exist(page: Path) -> None:
    """A path in code marks is one of the checkout, or of relay/ where that goes without saying."""
    named = set(
        re.findall(r"`(\.?\w[\w.-]*/[\w./-]*|[\w-]+\.(?:py|sh|yml|txt|toml))`", prose(page))
    )
    # Made by who reads this, and by tests.
    named -= {"docker-compose.override.yml", ".venv/bin/python", "test-artifacts/page"}
    missing = {name for name in named if not any((top / name).exists() for top in TOPS)}
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_variables_that_are_named_exist(page: Path) -> None:
    """RELAY_* and DEMO_* names are those that are read."""
    known = {variable_name(name) for name in Settings.model_fields}
    known |= {"RELAY_IMAGE", "RELAY_CONTAINER"}
    known |= set(re.findall(r"\"(DEMO_\w+)\"", (ROOT / "demo" / "settings.py").read_text()))
    named = set(re.findall(r"\b((?:RELAY|DEMO)_[A-Z_]*[A-Z])\b", page.read_text()))
    assert named - known == set()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_make_targets_that_are_named_exist(page: Path) -> None:
    """`make x` is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)\b(?=[`\n])", page.read_text())) - targets == set()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_programs_that_are_named_exist(page: Path) -> None:
    """What is run with `python -m` is a module that can be run."""
    modules = set(re.findall(r"\bpython -m ([\w.]+\w)", page.read_text())) - {"pytest"}
    files = {name: ROOT.joinpath(*name.split(".")) for name in modules}
    missing = {
        name
        for name, path in files.items()
        if not path.with_suffix(".py").exists() and not (path / "__main__.py").exists()
    }
    assert missing == set()


# -- README.md and docs/api.md -----------------------------------------------------------------


def routes() -> set[str]:
    """Every route of the application, as ``GET /sessions``."""
    app = build_app(Settings(), FakeSessions())
    found = {(route.method, route.resource.canonical) for route in app.router.routes()}  # type: ignore[union-attr]
    plain = {(method, re.sub(r"\{\w+\}", "{id}", path)) for method, path in found}
    return {f"{method} {path}" for method, path in plain if method != "HEAD"}


@pytest.mark.parametrize(("page", "heading"), [(README, "## API"), (API, "# API")])
def test_every_route_is_listed(page: Path, heading: str) -> None:
    """The table of calls is the router's, in both pages."""
    text = f"\n{page.read_text()}"
    table = text.split(f"\n{heading}\n", 1)[1].split("\n\n##")[0]
    cells = {re.sub(r"\{\w+\}", "{id}", cell) for cell in first_cells(table)}
    assert {cell for cell in cells if re.match(r"[A-Z]+ /", cell)} == routes()


@pytest.mark.parametrize(("page", "heading"), [(README, "## API"), (API, "## POST /session/start")])
def test_every_field_of_a_start_is_explained(page: Path, heading: str) -> None:
    """Fields of the request model, and no others."""
    table = section(page, heading).split("\n| field |")[1].split("\n\n")[0]
    assert first_cells(table) == set(StartRequest.model_fields)


def paths_of(value: Any, prefix: str = "") -> set[str]:
    """Every field of nested objects, as ``processing.link``."""
    if not isinstance(value, dict):
        return set()
    here = {f"{prefix}{name}" for name in value}
    return here.union(*(paths_of(inner, f"{prefix}{name}.") for name, inner in value.items()))


INNER = {
    *("queue_sizes", "queue_capacities", "frames_dropped", "delay_ms"),
    *("processing.round_trip_ms", "audio.dropped"),
}
"""Objects that are explained as a whole."""


async def real_status(output_stream_url: str = "http://127.0.0.1/out") -> dict[str, Any]:
    """The status of a session that has not begun."""
    resources = PipelineResources(Settings(), aiohttp.ClientSession())
    try:
        config = SessionConfig("http://127.0.0.1/in", output_stream_url, "http://127.0.0.1")
        return Session(config, resources).status()
    finally:
        await resources.aclose()


async def test_every_field_of_the_status_is_explained() -> None:
    """What a session tells about itself is in the table, and the table tells of nothing else."""
    real = await real_status()
    fields = {f for f in paths_of(real) if not any(f.startswith(f"{name}.") for name in INNER)}
    containers = {name for name in fields if any(f.startswith(f"{name}.") for f in fields)}
    table = section(API, "## GET /session/{id}/status").split("\n| field |")[1].split("\n\n")[0]
    assert first_cells(table) == fields - containers


async def test_a_session_without_an_output_tells_as_much() -> None:
    """Nobody has to ask first whether a field is there."""
    assert paths_of(await real_status("")) == paths_of(await real_status())


async def test_the_examples_of_a_status_are_real() -> None:
    """They have the fields that a status has, in its order."""
    real = await real_status()
    examples = [
        block["session"]
        for page in (README, API)
        for block in json_blocks(page)
        if isinstance(block.get("session"), dict)
    ]
    assert len(examples) == 2
    for example in examples:
        assert list(example) == list(real)
        for name in ("processing", "audio", "input", "output", "queue_sizes"):
            assert list(example[name]) == list(real[name])


@pytest.mark.parametrize(
    ("words", "page"),
    [
        (SessionState, API),
        (EndReason, API),
        (LinkState, API),
        (Fit, API),
        (Fit, README),
    ],
)
def test_every_word_of_a_field_is_explained(words: type[Any], page: Path) -> None:
    """The values that an enumeration allows stand in the page."""
    assert [word for word in words if f"`{word}`" not in page.read_text()] == []


def test_every_event_is_explained() -> None:
    """What listeners may be told of, and nothing else."""
    table = section(API, "## Events").split("\n| event |")[1].split("\n\n")[0]
    assert first_cells(table) == set(EventKind)


def test_every_reason_for_a_drop_is_explained() -> None:
    """What `frames_dropped` may count, as the code names it."""
    reasons = {"overflow"}
    for path in (ROOT / "relay").rglob("*.py"):
        text = path.read_text()
        reasons |= set(re.findall(r"(?:\.clear|skip_to_newest)\(\"(\w+)\"\)", text))
        reasons |= set(re.findall(r"dropped\[\"(\w+)\"\]", text))
    reasons -= {"too_slow"}  # listeners of events, counted as `listeners_too_slow`
    reasons -= {"segment_lost"}  # of a segment's own chunks; counted as output.segments_lost
    assert first_cells(section(API, "### Why frames are dropped")) == reasons


def codes() -> set[str]:
    """Every error code of the service: of its errors, and of the HTTP border."""
    found = set()
    for path in service_modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "code":
                found |= _strings(node.value)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = {target.id for target in targets if isinstance(target, ast.Name)}
                if names & {"code", "_CODES"} and node.value is not None:
                    found |= _strings(node.value)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "error_answer":
                found |= _strings(node.args[2])
    return found


def _strings(node: ast.expr) -> set[str]:
    return {
        inner.value
        for inner in ast.walk(node)
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
    }


def test_every_error_code_is_listed() -> None:
    """What a program may have to tell apart is in docs/api.md, and nothing there is made up."""
    text = section(API, "## Errors")
    listed = {
        word
        for line in text.splitlines()
        if line.startswith("|") or line.startswith("`trickle_error`") or "`busy`" in line
        for word in re.findall(r"`([a-z]+(?:_[a-z]+)*)`", _without_meaning(line))
    }
    assert codes() - set(NOT_FOR_CLIENTS) - listed == set()
    assert listed - codes() == set()


def _without_meaning(line: str) -> str:
    """A table's line up to its last column, which may name other things."""
    return line.rsplit("|", 2)[0] if line.startswith("|") else line


def test_codes_that_nobody_sees_still_exist() -> None:
    """The list of exceptions does not outlive them."""
    assert set(NOT_FOR_CLIENTS) <= codes()


def test_numbers_in_the_text_are_the_code_s() -> None:
    """Ten minutes, 1 MiB: said in words, kept by the code."""
    assert sessions_module.ENDED_KEPT.total_seconds() == 600
    assert "for ten minutes" in API.read_text()
    assert Settings().max_body_bytes == 1024 * 1024
    assert "1 MiB" in API.read_text()


# -- docs/operate.md ---------------------------------------------------------------------------


def log_events() -> set[str]:
    """The constant names of what relay/ and the command line log."""
    events = {"http.request"}  # its level is chosen where it is logged
    for path in [*service_modules(), ROOT / "trickle_relay_service.py"]:
        text = path.read_text()
        events |= set(
            re.findall(r"\.(?:debug|info|warning|error|exception)\(\s*\"([\w.]+)\"", text)
        )
    return events


def test_events_of_the_log_exist() -> None:
    """What operators are told to look for is what is logged."""
    named = {
        word
        for page in (OPERATE, TROUBLE, README)
        for word in re.findall(r"`((?:\w+\.)+\w+)`", prose(page))
        if word.split(".")[0] in ("relay", "session", "http", "comfystream", "trickle", "config")
    }
    assert named, "the table of events is gone"
    assert named - log_events() == set()


def test_every_end_is_explained_to_operators() -> None:
    """Each reason for which a session ends by itself is in the table of ends."""
    table = section(TROUBLE, "## It ended by itself")
    mine = {EndReason.REQUESTED}
    assert [
        reason for reason in EndReason if reason not in mine and f"`{reason}`" not in table
    ] == []


def test_every_fault_in_the_table_has_its_test() -> None:
    """The table of faults names tests that exist, one at least in each line."""
    existing = {
        name
        for folder in ("faults", "e2e")
        for path in (ROOT / "tests" / folder).glob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    table = section(OPERATE, "## What happens when something fails").split("|---|---|---|---|\n")[1]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert set(named) <= existing, row


def test_every_comfystream_code_is_explained_to_operators() -> None:
    """The table of what to do has each reason for which ComfyStream can't be used."""
    listed = first_cells(section(API, "### Why ComfyStream can't be used"))
    assert [code for code in listed if f"`{code}`" not in TROUBLE.read_text()] == []
