"""Settings: where they come from, what is refused, how they are shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from relay.config.settings import LogLevel, Settings, variable_name
from relay.config.show import print_lines, settings_table
from relay.config.sources import LoadedSettings, SettingsError, load_settings
from relay.config.warnings import security_warnings

ROOT = Path(__file__).parents[2]
PACKAGING_VARIABLES = {"RELAY_IMAGE", "RELAY_CONTAINER"}


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in list(os.environ):
        if name.upper().startswith(("RELAY_", "TWILIO_", "ORCH_", "CAPABILITY_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def faults_of(**flags: object) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(flags)
    return caught.value.faults


def line_of(loaded: LoadedSettings, setting: str) -> list[str]:
    [line] = [n for n in print_lines(loaded) if n.split()[0] == variable_name(setting)]
    return line.split()


def test_defaults_are_those_of_the_contract() -> None:
    """Without any source the service is the one the README describes."""
    settings = load_settings().settings
    assert (settings.host, settings.port, settings.log_level) == ("0.0.0.0", 8890, LogLevel.INFO)
    assert settings.comfystream_url == "http://localhost:8889"
    assert (settings.width, settings.height) == (512, 512)
    assert (
        settings.decoded_frames_capacity,
        settings.processed_frames_capacity,
        settings.output_segments_capacity,
    ) == (100, 100, 50)
    assert settings.max_body_bytes == 1024 * 1024
    assert settings.cors_origins == settings.ice_servers == ()


def test_flag_beats_environment_beats_file_beats_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The nearest source wins and is named as the origin."""
    (tmp_path / ".env").write_text("RELAY_PORT=1\nRELAY_WIDTH=640\nRELAY_HOST=file\n")
    monkeypatch.setenv("RELAY_PORT", "2")
    monkeypatch.setenv("RELAY_HOST", "environment")
    loaded = load_settings({"port": "3", "host": None})
    settings, origins = loaded.settings, loaded.origins
    assert (settings.port, origins["port"]) == (3, "flag")
    assert (settings.host, origins["host"]) == ("environment", "env")
    assert (settings.width, origins["width"]) == (640, ".env")
    assert (settings.height, origins["height"]) == (512, "default")


def test_constructor_reads_no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A test that makes Settings gets what it gave, whatever surrounds it."""
    (tmp_path / ".env").write_text("RELAY_WIDTH=640\n")
    monkeypatch.setenv("RELAY_PORT", "2")
    assert (Settings().port, Settings().width) == (8890, 512)


def test_settings_never_change() -> None:
    """What was validated once stays as it was."""
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """`RELAY_X: ${RELAY_X:-}` in a compose file leaves the default."""
    monkeypatch.setenv("RELAY_TEXT_WORKFLOW", "")
    monkeypatch.setenv("RELAY_WIDTH", "")
    settings = load_settings().settings
    assert settings.text_workflow is None
    assert settings.width == 512


def test_every_fault_is_named_with_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One start shows all that must be corrected, and where."""
    (tmp_path / ".env").write_text("RELAY_HEIGHT=33\n")
    monkeypatch.setenv("RELAY_WIDTH", "wide")
    monkeypatch.setenv("RELAY_COMFYSTREAM_URL", "localhost:8889")
    faults = faults_of(port="70000", log_level="loud")
    assert faults == [
        "--port must be at most 65535, not '70000'",
        "--log-level must be one of 'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL', not 'loud'",
        "RELAY_COMFYSTREAM_URL in the environment must begin with http:// or https://",
        "RELAY_WIDTH in the environment must be a whole number, not 'wide'",
        "RELAY_HEIGHT in .env must be even: H.264 pictures have half as many chroma samples a"
        " side, not '33'",
    ]


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("RELAY_SEGMENT_SECONDS", "nan", "finite"),
        ("RELAY_SEGMENT_SECONDS", "0.1", "at least 0.2"),
        ("RELAY_EARLY_DELIMITER", "maybe", "true or false"),
        ("RELAY_FIT", "squeeze", "'contain'"),
        ("RELAY_EVENT_LOOP", "trio", "'asyncio'"),
        ("RELAY_CORS_ORIGINS", "*", "name the origins"),
        ("RELAY_CORS_ORIGINS", "https://a.example/path", "no path"),
        ("RELAY_CORS_ORIGINS", "null", "origins"),
        ("RELAY_ICE_SERVERS", "stun:here", "list in JSON"),
        ("RELAY_ICE_SERVERS", '[{"urls": "http://x"}]', "stun:host"),
        ("RELAY_ICE_SERVERS", '[{"url": "stun:x"}]', "[0].url "),
        ("RELAY_MAX_SESSIONS", "-1", "at least 0"),
        ("RELAY_ALLOWED_HOSTS", "a.example,http://b.example", "host names"),
        ("RELAY_ALLOWED_HOSTS", "a.example:99999", "port"),
        ("RELAY_TLS_CA_FILE", "no-such-file.pem", "can't be read"),
        ("RELAY_API_TOKEN", "two words", "without spaces"),
        ("RELAY_UDP_PORTS", "40100-40000", "range of ports"),
        ("RELAY_UDP_PORTS", "0-70000", "range of ports"),
        ("RELAY_ICE_TRANSPORT_POLICY", "relay", "no TURN server"),
        ("TWILIO_ACCOUNT_SID", "AC1", "TWILIO_AUTH_TOKEN"),
        ("RELAY_COMFYSTREAM_URL", "http://host?x=1", "query"),
        ("RELAY_PORT", "tcp://10.0.0.1:8890", "Kubernetes"),
        ("RELAY_RECONNECT_FIRST_WAIT_S", "60", "RELAY_RECONNECT_LONGEST_WAIT_S"),
    ],
)
def test_bad_value_is_refused_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, word: str
) -> None:
    """Each kind of setting refuses what it can't be."""
    monkeypatch.setenv(variable, value)
    [fault] = [f for f in faults_of() if not f.endswith("urls in the environment is required")]
    assert variable in fault
    assert word in fault


def test_faults_of_secret_settings_do_not_show_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential in a setting that is refused stays out of the message."""
    monkeypatch.setenv("RELAY_API_TOKEN", "hunter2 hunter2")
    monkeypatch.setenv("RELAY_ICE_SERVERS", '[{"urls": "bad", "credential": "hunter2"}]')
    monkeypatch.setenv("RELAY_COMFYSTREAM_URL", "ftp://user:hunter2@host")
    assert "hunter2" not in " ".join(faults_of())


def test_unreadable_file_is_one_plain_fault(tmp_path: Path) -> None:
    """A `.env` that is not text ends in a line, not a traceback."""
    (tmp_path / ".env").write_bytes(b"RELAY_PORT=\xff\xfe\n")
    assert faults_of() == [".env can't be read: it is not UTF-8 text"]


def test_unknown_variables_are_pointed_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A misspelt name is not silently without effect; other people's names are left alone."""
    (tmp_path / ".env").write_text("RELAY_WIDHT=640\nPOSTGRES_DB=x\nRELAY_IMAGE=y\n")
    monkeypatch.setenv("RELAY_PORTT", "1")
    monkeypatch.setenv("RELAY_PORT_8890_TCP", "tcp://10.0.0.1:8890")
    monkeypatch.setenv("RELAY_SERVICE_HOST", "10.0.0.1")
    assert load_settings().warnings == (
        "RELAY_PORTT in the environment is not a setting; did you mean RELAY_PORT?",
        "RELAY_WIDHT in .env is not a setting; did you mean RELAY_WIDTH?",
    )


def test_lists_are_read_from_commas_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Origins may be written either way and are normalised as browsers send them."""
    monkeypatch.setenv("RELAY_CORS_ORIGINS", "https://a.example:443/, http://b.example:81")
    assert load_settings().settings.cors_origins == ("https://a.example", "http://b.example:81")
    monkeypatch.setenv("RELAY_CORS_ORIGINS", '["https://a.example"]')
    assert load_settings().settings.cors_origins == ("https://a.example",)


def test_ice_servers_keep_their_credential_for_those_who_need_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The peer connection gets the secret; whoever prints the settings does not."""
    monkeypatch.setenv(
        "RELAY_ICE_SERVERS",
        '[{"urls": "turn:h:3478", "username": "u", "credential": "hunter2"}, {"urls": ["stun:h"]}]',
    )
    loaded = load_settings()
    assert [server.to_dict() for server in loaded.settings.ice_servers] == [
        {"urls": ["turn:h:3478"], "username": "u", "credential": "hunter2"},
        {"urls": ["stun:h"]},
    ]
    assert "hunter2" not in "\n".join(print_lines(loaded))
    assert "hunter2" not in repr(loaded)


def test_the_token_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at the settings sees that there is one, and no more."""
    monkeypatch.setenv("RELAY_API_TOKEN", "hunter2")
    loaded = load_settings()
    assert line_of(loaded, "api_token") == ["RELAY_API_TOKEN", "**********", "env"]
    assert "hunter2" not in repr(loaded)


def test_twilio_s_names_are_twilio_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without our prefix, from the environment and from `.env`; with it they are not settings."""
    (tmp_path / ".env").write_text("TWILIO_AUTH_TOKEN=hunter2\n")
    monkeypatch.setenv("TWILIO_ACCOUNT_SID", "AC1")
    monkeypatch.setenv("RELAY_TWILIO_AUTH_TOKEN", "x")
    loaded = load_settings()
    assert line_of(loaded, "twilio_account_sid") == ["TWILIO_ACCOUNT_SID", "AC1", "env"]
    assert line_of(loaded, "twilio_auth_token") == ["TWILIO_AUTH_TOKEN", "**********", ".env"]
    [warning] = loaded.warnings
    assert warning.startswith("RELAY_TWILIO_AUTH_TOKEN in the environment is not a setting")


def test_a_ca_file_without_certificates_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At the start, not at the first connection."""
    (tmp_path / "ca.pem").write_text("no certificate")
    monkeypatch.setenv("RELAY_TLS_CA_FILE", str(tmp_path / "ca.pem"))
    [fault] = faults_of()
    assert "RELAY_TLS_CA_FILE" in fault
    assert "holds no certificate" in fault


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "0.0.0.0"}, ["RELAY_API_TOKEN"]),
        ({"host": "::"}, ["RELAY_API_TOKEN"]),
        ({"host": "relay.internal"}, ["RELAY_API_TOKEN"]),
        ({"host": "0.0.0.0", "api_token": "x"}, []),
        ({"host": "127.0.0.1"}, []),
        ({"host": "127.8.9.1"}, []),
        ({"host": "::1"}, []),
        ({"host": "localhost"}, []),
        ({"host": "localhost", "tls_insecure": True}, ["RELAY_TLS_INSECURE"]),
    ],
)
def test_what_is_open_is_said(settings: dict[str, Any], words: list[str]) -> None:
    """One warning for each door that stands open, naming what closes it."""
    warnings = security_warnings(Settings(**settings))
    assert len(warnings) == len(words)
    for warning, word in zip(warnings, words, strict=True):
        assert word in warning


def test_printed_config_shows_value_and_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line a setting, in the form in which it would be set."""
    monkeypatch.setenv("RELAY_COMFYSTREAM_URL", "http://user:hunter2@gpu:8889/")
    monkeypatch.setenv("RELAY_EARLY_DELIMITER", "no")
    loaded = load_settings({"port": "9000"})
    assert len(print_lines(loaded)) == len(Settings.model_fields)
    assert line_of(loaded, "port") == ["RELAY_PORT", "9000", "flag"]
    assert line_of(loaded, "early_delimiter") == ["RELAY_EARLY_DELIMITER", "false", "env"]
    assert line_of(loaded, "segment_seconds") == ["RELAY_SEGMENT_SECONDS", "1.0", "default"]
    assert line_of(loaded, "comfystream_url")[1] == "http://***@gpu:8889"


def test_every_setting_is_described() -> None:
    """The table in the README is made of these."""
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert "|" not in field.description, name


def test_readme_table_is_the_model() -> None:
    """What the README says about settings is what there is."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    marked = re.search(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", text, re.DOTALL)
    if marked is None:
        pytest.skip("README.md has no settings markers")
    assert marked.group(1).strip() == settings_table()


@pytest.mark.parametrize(
    "name", ["docker-compose.yml", ".env.example", "docker-build.sh", "Dockerfile"]
)
def test_packaging_names_only_settings_that_exist(name: str) -> None:
    """A renamed setting can't live on in a compose file."""
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"there is no {name}")
    named = set(re.findall(r"\bRELAY_[A-Z0-9_]+\b", path.read_text(encoding="utf-8")))
    known = {variable_name(setting) for setting in Settings.model_fields}
    assert named - known - PACKAGING_VARIABLES == set()
