"""What is shipped, checked without a Docker engine: the image's files, commands and settings.

The image is rebuilt as a folder: exactly the files that the Dockerfile copies, beside a virtual
environment that holds exactly what its `pip install` installs.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay.config.settings import Settings, variable_name
from relay.config.show import shown_value
from relay.config.sources import load_settings
from tests.e2e.stack import Viewer, in_background

ROOT = Path(__file__).parents[2]
VARIABLE = r"(?:RELAY|TWILIO|ORCH|CAPABILITY)_\w+"
COMMAND_TIMEOUT_S = 30.0
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
DEMO_SERVICES = ("demo-trickle", "demo-comfystream", "demo-pattern", "demo-session")

pytestmark = pytest.mark.timeout(240)  # the first test to need it waits for the environment


@dataclass(frozen=True)
class Image:
    """The image as a folder."""

    app: Path
    environment: dict[str, str]
    """Nothing but what the Dockerfile sets."""
    command: list[str]
    health_check: list[str]

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command in the image, waited for."""
        return subprocess.run(
            self._found(command),
            cwd=self.app,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )

    @asynccontextmanager
    async def running(
        self, *command: str, **variables: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """A command in the image, told to end and waited for at the end."""
        process = await asyncio.create_subprocess_exec(
            *self._found(command),
            cwd=self.app,
            env={**self.environment, **variables},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
                try:
                    async with asyncio.timeout(STOP_TIMEOUT_S):
                        await process.communicate()
                except TimeoutError:
                    process.kill()
                    await process.communicate()

    def files(self) -> set[str]:
        return {str(path.relative_to(self.app)) for path in self.app.rglob("*")}

    def _found(self, command: tuple[str, ...]) -> list[str]:
        """The program looked up in the image's PATH, not in ours."""
        program = shutil.which(command[0], path=self.environment["PATH"])
        assert program is not None, f"the image has no {command[0]}"
        return [program, *command[1:]]


def dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continuation lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def final_stage() -> list[tuple[str, str]]:
    instructions = dockerfile()
    start = max(index for index, (name, _) in enumerate(instructions) if name == "FROM")
    return instructions[start:]


def copied() -> list[tuple[list[str], str]]:
    """Sources in the checkout and destination of each COPY into the final image."""
    copies = [shlex.split(rest) for name, rest in final_stage() if name == "COPY"]
    return [(words[:-1], words[-1]) for words in copies if not words[0].startswith("--from")]


def lay_out(app: Path) -> None:
    """What the COPY lines put into the working directory."""
    for sources, destination in copied():
        target = app / destination
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                target.mkdir(exist_ok=True)
                shutil.copy(ROOT / source, target)


def install(venv: Path) -> None:
    """The environment of the build stage, by its own commands."""
    [requirements] = [
        shlex.split(rest)[0]
        for name, rest in dockerfile()
        if name == "COPY" and rest.endswith("/tmp/requirements.txt")
    ]
    places = {
        "/opt/venv": str(venv),
        "/tmp/requirements.txt": str(ROOT / requirements),
    }
    commands = [rest for name, rest in dockerfile() if name == "RUN" and "/opt/venv" in rest]
    for command in commands:
        for inside, here in places.items():
            command = command.replace(inside, here)
        words = shlex.split(command)
        if words[0] == "python":
            words[0] = sys.executable
        subprocess.run(words, check=True, capture_output=True, timeout=200)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image; takes some twenty seconds to install."""
    folder = tmp_path_factory.mktemp("image")
    app, venv = folder / "app", folder / "venv"
    app.mkdir()
    lay_out(app)
    install(venv)
    words = [word for name, rest in final_stage() if name == "ENV" for word in shlex.split(rest)]
    environment = dict(word.split("=", 1) for word in words)
    environment["PATH"] = environment["PATH"].replace("/opt/venv", str(venv))
    environment["PATH"] = environment["PATH"].replace("$PATH", "/usr/bin:/bin")
    [command] = [rest for name, rest in final_stage() if name == "CMD"]
    [check] = [rest for name, rest in final_stage() if name == "HEALTHCHECK"]
    return Image(app, environment, json.loads(command), json.loads(check.partition("CMD ")[2]))


@contextmanager
def reserved_port() -> Iterator[int]:
    """A free port that nobody else is given meanwhile; a server with SO_REUSEADDR gets it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


async def log_line(process: asyncio.subprocess.Process, event: str) -> dict[str, object]:
    """The first log line of that event."""
    assert process.stderr is not None
    async with asyncio.timeout(START_TIMEOUT_S):
        while line := await process.stderr.readline():
            entry: dict[str, object] = json.loads(line)
            if entry["event"] == event:
                return entry
    raise AssertionError(f"the process ended without {event}")


def compose_command(service: str) -> list[str]:
    """The command of a service in docker-compose.yml, with RELAY_PORT not set."""
    text = (ROOT / "docker-compose.yml").read_text()
    block = text.split(f"\n  {service}:\n")[1].split("\n\n")[0]
    found = re.search(r"command: (\[.*?\])", block, re.DOTALL)
    assert found is not None
    words: list[str] = json.loads(found[1].replace("${RELAY_PORT:-8890}", "8890"))
    return words


def compose(*arguments: str, folder: Path = ROOT, **variables: str) -> str:
    """Output of docker-compose, which needs no engine for what is asked here."""
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    result = subprocess.run(
        ["docker-compose", *arguments],
        cwd=folder,
        env={**clean, **variables},
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# -- the image -------------------------------------------------------------------------------


def test_the_build_context_holds_what_is_copied_and_nothing_else() -> None:
    """A file that the Dockerfile copies gets past .dockerignore, and no other one does."""
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*"
    let_through = {line[1:].rstrip("/") for line in lines if line.startswith("!")}
    wanted = {source.rstrip("/") for sources, _ in copied() for source in sources}
    assert let_through == wanted | {"requirements.txt"}
    assert all((ROOT / name).exists() for name in wanted)


def test_the_image_does_not_run_as_root() -> None:
    """Its user is a number, which Kubernetes can check, and not 0."""
    [user] = [rest for name, rest in final_stage() if name == "USER"]
    assert int(user) > 0


def test_the_image_starts_without_what_only_tests_need(image: Image) -> None:
    """`--version` answers from the image's own files and packages."""
    result = image.run(*image.command, "--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("trickle-relay ")
    assert image.run("python", "-c", "import aiortc").returncode == 0
    assert image.run("python", "-c", "import pytest").returncode != 0


async def test_the_image_serves_is_healthy_and_stops(image: Image) -> None:
    """RELAY_PORT moves the service and its health check; SIGTERM ends it with 0, and it has
    written nothing beside its own files."""
    before = image.files()
    with reserved_port() as port:
        async with image.running(*image.command, RELAY_PORT=str(port)) as relay:
            listening = await log_line(relay, "relay.listening")
            assert (listening["host"], listening["port"]) == ("0.0.0.0", port)
            check = await asyncio.to_thread(image.run, *image.health_check, RELAY_PORT=str(port))
            assert (check.returncode, check.stderr) == (0, "")
            relay.send_signal(signal.SIGTERM)
            async with asyncio.timeout(STOP_TIMEOUT_S):
                _, rest = await relay.communicate()
            assert relay.returncode == 0, rest
        check = await asyncio.to_thread(image.run, *image.health_check, RELAY_PORT=str(port))
        assert check.returncode != 0
    assert image.files() == before


@pytest.mark.parametrize("service", DEMO_SERVICES)
def test_the_demo_services_are_in_the_image(image: Image, service: str) -> None:
    """Each module that compose runs is there and says what it takes."""
    result = image.run(*compose_command(service)[:3], "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "usage:" in result.stdout


async def test_the_demo_profile_brings_inverted_pictures(image: Image) -> None:
    """The services' own commands, side by side: what the pattern draws comes out inverted."""
    with reserved_port() as trickle, reserved_port() as comfystream, reserved_port() as relay:
        places = {
            "demo-trickle:3389": f"127.0.0.1:{trickle}",
            "demo-comfystream:8889": f"127.0.0.1:{comfystream}",
            "relay:8890": f"127.0.0.1:{relay}",
            "0.0.0.0": "127.0.0.1",
        }
        ports = {"3389": str(trickle), "8889": str(comfystream)}

        def command(service: str) -> list[str]:
            words = [ports.get(word, word) for word in compose_command(service)]
            for inside, here in places.items():
                words = [word.replace(inside, here) for word in words]
            return words

        async with (
            image.running(*command("demo-trickle")),
            image.running(*command("demo-comfystream")),
            image.running(*image.command, RELAY_PORT=str(relay), RELAY_HOST="127.0.0.1"),
            image.running(*command("demo-pattern")),
            image.running(*command("demo-session")) as session,
        ):
            async with asyncio.timeout(START_TIMEOUT_S):
                assert await session.wait() == 0
            viewer = Viewer()
            async with in_background(viewer.watch(f"http://127.0.0.1:{trickle}/demo-processed")):
                await viewer.wait_for(
                    lambda v: sum(frame.inverted for frame in v.frames) > 10, START_TIMEOUT_S
                )


# -- compose ---------------------------------------------------------------------------------


def test_compose_starts_the_relay_and_with_the_profile_the_demo() -> None:
    """Both forms of the file are valid, and the demo is not started unasked."""
    assert "relay:" in compose("config")
    text = compose("--profile", "demo", "config")
    # Services stand two spaces in, what belongs to them further.
    blocks = dict(re.findall(r"^  ([\w-]+):\n((?:    .*\n)+)", text, re.MULTILINE))
    assert sorted(blocks) == sorted(["relay", *DEMO_SERVICES])
    in_profile = {name for name, block in blocks.items() if re.search("profiles:\n +- demo", block)}
    assert in_profile == set(DEMO_SERVICES)


class OnceLoader(yaml.SafeLoader):
    """Refuses what newer versions of compose do."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if key.value != "<<"]
        assert len(names) == len(set(names)), f"twice: {sorted(names)}"
        return super().construct_mapping(node, deep)


def test_compose_names_everything_once() -> None:
    """A key that stands twice is taken by old versions only."""
    assert yaml.load((ROOT / "docker-compose.yml").read_text(), OnceLoader)["services"]


def test_compose_passes_every_setting() -> None:
    """What is set outside reaches the relay; only where it listens is compose's own business."""
    given = {variable_name(name): f"given-{name}" for name in Settings.model_fields}
    given["RELAY_PORT"] = "9999"
    text = compose("config", **given)
    passed = dict(
        re.findall(
            r"^ +((?:RELAY|TWILIO|ORCH|CAPABILITY)_\w+): ['\"]?(.*?)['\"]?$", text, re.MULTILINE
        )
    )
    assert passed == given | {"RELAY_HOST": "0.0.0.0"}
    assert re.search(r"published: ['\"]?9999", text)
    assert re.search(r"target: 9999", text)


def test_compose_leaves_the_defaults_to_the_relay() -> None:
    """What nobody set is not in the container's environment, so the relay's default holds."""
    text = compose("config")
    assert re.search(r"^ +RELAY_MAX_SESSIONS: null$", text, re.MULTILINE)


def test_compose_gives_the_relay_time_to_stop() -> None:
    """The grace period is longer than the relay's own time to stop, with the second it takes
    at the most beyond."""
    found = re.search(r"stop_grace_period: (\d+)s", (ROOT / "docker-compose.yml").read_text())
    assert found is not None
    assert int(found[1]) > Settings().stop_timeout_s + 1


# -- settings in files -----------------------------------------------------------------------


def test_env_example_shows_every_setting_with_its_default() -> None:
    """In the order of the model; the last two are docker-build.sh's own."""
    text = (ROOT / ".env.example").read_text()
    shown = re.findall(rf"^#({VARIABLE})=(.*)$", text, re.MULTILINE)
    defaults = [
        (variable_name(name), shown_value(field.default))
        for name, field in Settings.model_fields.items()
    ]
    assert shown == [
        *defaults,
        ("RELAY_IMAGE", "trickle-relay:latest"),
        ("RELAY_CONTAINER", "trickle-relay"),
    ]


def test_env_example_can_be_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands and with every line switched on it gives the defaults, without a warning."""
    for name in [name for name in os.environ if name.startswith("RELAY_")]:
        monkeypatch.delenv(name)
    text = (ROOT / ".env.example").read_text()
    for content in (
        text,
        re.sub(rf"^#({VARIABLE})", r"\1", text, flags=re.MULTILINE),
    ):
        (tmp_path / ".env").write_text(content)
        loaded = load_settings(env_file=tmp_path / ".env")
        assert loaded.settings == Settings()
        assert loaded.warnings == ()
    assert loaded.origins["width"] == ".env"


ENV_FILE = """\
RELAY_PORT=9123
RELAY_CORS_ORIGINS=https://a.example,https://b.example
RELAY_ICE_SERVERS=[{"urls": "turn:turn.example:3478", "username": "u", "credential": "c d"}]
TWILIO_ACCOUNT_SID=AC1
TWILIO_AUTH_TOKEN=secret
RELAY_CONTAINER=second-relay
"""


def test_one_env_file_serves_the_relay_compose_and_the_script(tmp_path: Path) -> None:
    """The same values reach the service whichever way it is started."""
    lines = dict(line.split("=", 1) for line in ENV_FILE.splitlines())
    for name in ("docker-compose.yml", "docker-build.sh"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".env").write_text(ENV_FILE)

    settings = load_settings(env_file=tmp_path / ".env").settings
    assert settings.port == 9123
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.ice_servers[0].urls == ("turn:turn.example:3478",)

    text = compose("config", folder=tmp_path)
    ice_servers = re.search(r"RELAY_ICE_SERVERS: '(.*?)'\n", text, re.DOTALL)
    assert ice_servers is not None
    assert re.sub(r"\n +", " ", ice_servers[1]) == lines["RELAY_ICE_SERVERS"]
    assert f"RELAY_CORS_ORIGINS: {lines['RELAY_CORS_ORIGINS']}" in text
    assert re.search(r"published: ['\"]?9123", text)

    call = docker_call(tmp_path, "run")
    assert call.arguments[:4] == ["run", "--detach", "--name", "second-relay"]
    assert call.options("--publish") == ["9123:9123"]
    for name in ("RELAY_PORT", "RELAY_CORS_ORIGINS", "RELAY_ICE_SERVERS", "TWILIO_AUTH_TOKEN"):
        assert name in call.options("--env")
        assert call.environment[name] == lines[name]
    assert "RELAY_CONTAINER" not in call.options("--env")


# -- docker-build.sh -------------------------------------------------------------------------


@dataclass(frozen=True)
class DockerCall:
    """How docker-build.sh called docker last."""

    arguments: list[str]
    environment: dict[str, str]

    def options(self, name: str) -> list[str]:
        """The values of a repeated option."""
        pairs = zip(self.arguments, self.arguments[1:], strict=False)
        return [value for option, value in pairs if option == name]


def script(
    folder: Path, *arguments: str, path: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", str(folder / "docker-build.sh"), *arguments],
        env={"PATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
    )


def docker_call(folder: Path, *arguments: str, **variables: str) -> DockerCall:
    """The last call of a docker that only writes down how it was called."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    call = tools / "call.json"
    docker = tools / "docker"
    docker.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        f"open({str(call)!r}, 'w').write(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
    )
    docker.chmod(0o755)
    result = script(folder, *arguments, path=f"{tools}:/usr/bin:/bin", **variables)
    assert result.returncode == 0, result.stderr
    return DockerCall(*json.loads(call.read_text()))


def test_docker_build_run_gives_the_container_what_compose_gives(tmp_path: Path) -> None:
    """The environment's settings by name, and the three that a container can't go without."""
    shutil.copy(ROOT / "docker-build.sh", tmp_path)
    call = docker_call(tmp_path, "run", RELAY_WIDTH="768", RELAY_IMAGE="relay:test")
    assert call.arguments[-1] == "relay:test"
    assert sorted(call.options("--env")) == [
        "RELAY_COMFYSTREAM_URL",
        "RELAY_HOST",
        "RELAY_PORT",
        "RELAY_WIDTH",
    ]
    assert call.environment["RELAY_HOST"] == "0.0.0.0"
    assert call.environment["RELAY_PORT"] == "8890"
    assert call.environment["RELAY_COMFYSTREAM_URL"] == "http://host.docker.internal:8889"
    assert call.environment["RELAY_WIDTH"] == "768"
    assert {"--init", "--read-only"} <= set(call.arguments)


def test_the_environment_wins_over_the_env_file_in_the_script(tmp_path: Path) -> None:
    """As for the relay itself and for compose; quotes around a value are not part of it."""
    shutil.copy(ROOT / "docker-build.sh", tmp_path)
    (tmp_path / ".env").write_text("RELAY_WIDTH=640\r\nRELAY_HEIGHT='480'\nPATH=/nowhere")
    call = docker_call(tmp_path, "run", RELAY_WIDTH="768")
    assert call.environment["RELAY_WIDTH"] == "768"
    assert call.environment["RELAY_HEIGHT"] == "480"


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("build", ["build", "--tag", "trickle-relay:latest", "--build-arg", "COMMIT=", "."]),
        ("stop", ["rm", "trickle-relay"]),
        ("logs", ["logs", "--follow", "trickle-relay"]),
        ("shell", ["exec", "--interactive", "--tty", "trickle-relay", "/bin/bash"]),
        ("clean", ["image", "rm", "trickle-relay:latest"]),
        ("compose-up", ["compose", "up", "--detach"]),
        ("compose-down", ["compose", "down"]),
    ],
)
def test_docker_build_commands(tmp_path: Path, command: str, arguments: list[str]) -> None:
    """What each command asks docker for, last."""
    shutil.copy(ROOT / "docker-build.sh", tmp_path)
    assert docker_call(tmp_path, command).arguments == arguments


def test_docker_build_says_what_is_wrong(tmp_path: Path) -> None:
    """Without docker: one line. An unknown command: the list of commands. Both fail."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("dirname", "cat"):
        (tools / name).symlink_to(shutil.which(name) or name)
    without = script(ROOT, "build", path=str(tools))
    assert (without.returncode, without.stdout) == (1, "")
    assert without.stderr == "docker-build.sh: docker is not installed\n"
    unknown = script(ROOT, "bulid", path=str(tools))
    assert unknown.returncode == 2
    assert "unknown command 'bulid'" in unknown.stderr
    assert "compose-down" in unknown.stderr


@pytest.mark.parametrize("name", ["docker-build.sh", ".ci/run"])
def test_shell_scripts_are_clean(name: str) -> None:
    """No finding of shellcheck, and the file can be run."""
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    result = subprocess.run(["shellcheck", name], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert os.access(ROOT / name, os.X_OK)


# -- make and CI -----------------------------------------------------------------------------


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env={**clean, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
    )


def test_make_help_lists_every_target() -> None:
    """`make` alone and `make help` show each target with a few words."""
    [phony] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = re.findall(r"^  make ([a-z-]+) +\S", make("help").stdout, re.MULTILINE)
    assert sorted(listed) == sorted(phony.split())
    assert make().stdout == make("help").stdout


@pytest.mark.parametrize("target", ["install", "demo", "test"])
def test_a_python_too_old_is_one_clear_line(tmp_path: Path, target: str) -> None:
    """It names what is needed and how to give another one, and nothing is made."""
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # what it says when asked for 3.11
    old.chmod(0o755)
    result = make(target, f"PYTHON={old}", f"VENV={tmp_path}/venv")
    assert result.returncode != 0
    first, *others = result.stderr.splitlines()
    assert first == (
        f"Trickle Relay needs Python 3.11 or newer as {old}; set PYTHON=/path/to/python3.11"
    )
    assert all(line.startswith("make: ***") for line in others)
    assert not (tmp_path / "venv").exists()


def ci_run(folder: Path, *present: str, failing: str = "") -> tuple[int, list[str]]:
    """Exit code of .ci/run and the calls it made, with tools that only write down their call.

    Args:
        present: what is installed beside make and Python.
        failing: the make target that fails.
    """
    tools, calls = folder / "tools", folder / "calls"
    tools.mkdir()
    for name in ("bash", "dirname", "env"):
        (tools / name).symlink_to(shutil.which(name) or name)
    written = dict.fromkeys(("python3", "apt-get", "make", *present), "")
    written["id"] = "echo 0; exit"
    written["make"] = f'[ "$2" != "{failing}" ] || exit 2' if failing else ""
    for name, body in written.items():
        note = f'echo "{name} $*" >> {calls}\n' if name in ("apt-get", "make") else ""
        (tools / name).write_text(f"#!/bin/bash\n{note}{body}\n")
        (tools / name).chmod(0o755)
    result = subprocess.run(
        [str(ROOT / ".ci/run")], env={"PATH": str(tools)}, capture_output=True, text=True
    )
    return result.returncode, calls.read_text().splitlines()


CI_TOOLS = (
    *("curl", "jq", "ffmpeg", "ffprobe"),
    *("docker-compose", "shellcheck", "chromium", "turnserver"),
)
"""Programs that `.ci/run` needs."""


def test_ci_installs_what_is_missing_and_runs_everything(tmp_path: Path) -> None:
    """From nothing but Python and make: Debian's tools, then install, check, test."""
    code, calls = ci_run(tmp_path)
    assert code == 0
    assert calls[0].startswith("apt-get update")
    assert calls[1].endswith("curl jq ffmpeg docker-compose shellcheck chromium coturn")
    assert calls[2:] == ["make -s install", "make -s check", "make -s test"]


def test_ci_installs_nothing_twice(tmp_path: Path) -> None:
    """Where everything is there, apt is left alone."""
    _, calls = ci_run(tmp_path, *CI_TOOLS)
    assert calls == ["make -s install", "make -s check", "make -s test"]


def test_ci_fails_with_what_it_runs(tmp_path: Path) -> None:
    """A failing check is a failing run, and nothing after it hides that."""
    code, calls = ci_run(tmp_path, *CI_TOOLS, failing="check")
    assert code != 0
    assert calls == ["make -s install", "make -s check"]
