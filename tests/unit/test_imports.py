"""Who may import whom: the data path's order, read from the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# From the top of the architecture to its ground; a module imports from its own level or below.
# Longest prefix counts; what is not listed below `relay` is a stage.
LEVELS = {
    "demo": 9,
    "bench": 9,
    "trickle_relay_service": 8,
    "trickle_components": 8,
    "relay.api": 7,
    "relay.session.manager": 6,
    "relay.session": 5,
    "relay.check": 5,
    "relay.pipeline.pipeline": 4,
    "relay": 3,
    "relay.trickle": 2,
    "relay.media": 2,
    "relay.comfystream": 2,
    "relay.queues": 2,
    "relay.observe.log": 1,
    "relay.backoff": 0,
    "relay.build": 0,
    "relay.config": 0,
    "relay.cores": 0,
    "relay.deadline": 0,
    "relay.errors": 0,
    "relay.host_rules": 0,
    "relay.http_body": 0,
    "relay.journal": 0,
    "relay.log_limit": 0,
    "relay.redaction": 0,
    "relay.session_config": 0,
    "relay.session_health": 0,
    "relay.session_state": 0,
    "relay.stats": 0,
    "relay.strict_json": 0,
    "relay.tasks": 0,
    "relay.tls": 0,
    "relay.validation": 0,
}
STRANGERS = ("relay.trickle", "relay.media", "relay.comfystream")
HOMES = {
    "aiortc": ("relay.webrtc", "relay.webrtc_client", "demo", "bench"),
    "aioice": ("relay.webrtc", "relay.webrtc_client", "demo", "bench"),
    "av": ("relay.media", "relay.webrtc.outgoing_", "demo", "bench"),
    "pydantic": ("relay.config", "relay.api", "demo"),
    "pydantic_settings": ("relay.config",),
    "aiohttp_cors": ("relay.api",),
}


def module_files() -> dict[str, Path]:
    """Every module of the product, by dotted name; packages by the name of the package."""
    files = [ROOT / "trickle_relay_service.py", ROOT / "trickle_components.py"]
    for package in ("relay", "demo", "bench"):
        files.extend(sorted((ROOT / package).rglob("*.py")))
    return {_dotted(path): path for path in files if path.exists()}


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports_of(module: str) -> frozenset[str]:
    """What it imports anywhere in its text, also inside functions; our own by module name."""
    names: set[str] = set()
    for statement in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        names.update(_imported_by(module, statement))
    return frozenset(names)


def _imported_by(module: str, statement: ast.AST) -> Iterator[str]:
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            yield alias.name
    elif isinstance(statement, ast.ImportFrom):
        assert not statement.level, f"{module}: imports are absolute here"
        for alias in statement.names:
            full = f"{statement.module}.{alias.name}"
            yield full if full in FILES else str(statement.module)


def level_of(module: str) -> int:
    while module not in LEVELS:
        module = module.rpartition(".")[0]
    return LEVELS[module]


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


FILES = module_files()
OURS = ("relay", "demo", "bench", "trickle_relay_service", "trickle_components")


def our_imports() -> Iterator[tuple[str, str]]:
    """Every pair of our modules of which the first imports the second."""
    for module in FILES:
        for imported in imports_of(module):
            if imported.split(".")[0] in OURS and imported != "relay":
                yield module, imported


def test_imports_run_one_way() -> None:
    """No module knows one that stands above it."""
    assert [
        f"{module} imports {imported}"
        for module, imported in our_imports()
        if level_of(imported) > level_of(module)
    ] == []


def folder_of(module: str) -> str:
    """The folder of `relay` that a module stands in; by itself, if it stands in none."""
    return ".".join(module.split(".")[:2])


def test_no_two_folders_import_one_another() -> None:
    """What both need stands below them."""
    pairs = {
        (folder_of(module), folder_of(imported))
        for module, imported in our_imports()
        if module.startswith("relay.") and folder_of(module) != folder_of(imported)
    }
    assert sorted(pair for pair in pairs if pair[::-1] in pairs) == []


def test_trickle_media_and_comfystream_are_strangers() -> None:
    """Each can be read, used and replaced alone; the pipeline introduces them."""
    homes = {m: home for m in FILES for home in STRANGERS if inside(m, home)}
    assert [
        f"{module} imports {imported}"
        for module, imported in our_imports()
        if module in homes and homes.get(imported, homes[module]) != homes[module]
    ] == []


@pytest.mark.parametrize("library", HOMES)
def test_libraries_stay_in_their_homes(library: str) -> None:
    """Where a library's quirks may show is known by its imports."""
    users = {m for m in FILES if any(inside(i, library) for i in imports_of(m))}
    strays = {m for m in users if not m.startswith(HOMES[library])}
    assert strays == set()


def test_service_never_imports_demo_or_tests() -> None:
    """What is shipped to operators does not lean on stand-ins."""
    assert [
        f"{module} imports {imported}"
        for module in FILES
        for imported in imports_of(module)
        if imported.split(".")[0] in ("tests", "demo", "bench")
        and module.split(".")[0] not in ("demo", "bench")
    ] == []


def test_public_trickle_pieces_bring_no_webrtc_or_web_server() -> None:
    """A program that only speaks trickle pays for nothing else."""
    script = (
        "import sys, trickle_components;"
        "print([n for n in ('aiortc', 'aioice', 'pydantic', 'relay.api') if n in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=20
    )
    assert result.stdout.strip() == "[]", result.stderr
