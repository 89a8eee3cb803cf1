"""docs/protocol.md says what is: its programs run, its commands parse, its tables are complete."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

import trickle_components
from relay.trickle import protocol
from relay.trickle.__main__ import parse_arguments
from relay.trickle.http_client import ConnectionOptions
from relay.trickle.publisher_options import PublisherOptions
from relay.trickle.server import parse_arguments as parse_server_arguments
from relay.trickle.server_options import ServerOptions
from relay.trickle.subscriber_options import SubscriberOptions

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text("utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.S)


@pytest.mark.parametrize(
    ("program", "output"), PROGRAMS, ids=[str(number) for number in range(len(PROGRAMS))]
)
async def test_each_program_prints_what_the_page_says(program: str, output: str) -> None:
    """Run as a reader would, in a process of its own; logs go to standard error's place."""
    quiet = "import logging, structlog\nstructlog.configure(wrapper_class="
    quiet += "structlog.make_filtering_bound_logger(logging.WARNING))\n"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", quiet + program),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    assert out.decode() == output


def test_every_program_is_one_that_is_run() -> None:
    """A program without its output would not be tested."""
    assert len(PROGRAMS) == PAGE.count("```python\n") >= 6


def test_each_command_is_one_that_the_tools_take() -> None:
    """Options are spelled as they are."""
    [block] = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    commands = [
        shlex.split(part)[3:] if "trickle.server" not in part else shlex.split(part)[2:]
        for line in block.splitlines()
        for part in line.split("|")
        if "relay.trickle" in part
    ]
    assert len(commands) == 8
    for command in commands:
        if command[0] == "relay.trickle.server":
            parse_server_arguments(command[1:])
        else:
            parse_arguments(command)


@pytest.mark.parametrize(
    "options", [SubscriberOptions, PublisherOptions, ConnectionOptions, ServerOptions]
)
def test_each_option_is_in_its_table(options: type) -> None:
    """No more and no fewer."""
    [table] = re.findall(rf"\| `{options.__name__}` \| default .*?\n\n", PAGE, re.S)
    rows = table.strip().splitlines()[2:]
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(listed) == sorted(field.name for field in dataclasses.fields(options))


def test_each_header_is_on_the_page() -> None:
    """As it is spelled on the wire."""
    for name in ("SEQ", "LATEST", "CLOSED", "RESET", "SIZE", "OLDEST", "EXPECT_CONTENT"):
        assert f"`{getattr(protocol, name)}`" in PAGE


def test_the_public_names_can_be_imported() -> None:
    """Each name of trickle_components is what it says, and the list is complete."""
    for name in trickle_components.__all__:
        assert getattr(trickle_components, name).__name__ == name
    assert set(trickle_components.__all__) <= set(dir(trickle_components))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = trickle_components.no_such_name


async def test_the_trickle_names_do_not_load_codecs_or_webrtc() -> None:
    """A program that only wants trickle does not pay for the rest."""
    names = ", ".join(
        name
        for name, module in trickle_components._MODULE_OF.items()
        if module.startswith("relay.trickle")
    )
    program = (
        f"import sys\nfrom trickle_components import {names}\n"
        "print(sorted({'av', 'aiortc', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    out, _ = await process.communicate()
    assert out.decode().strip() == "[]"
