"""docs/kubernetes.yml fits the settings, the image and the routes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from relay.api.access import OPEN_PATHS
from relay.config.settings import Settings, variable_name
from relay.config.sources import load_settings
from tests.unit.test_docs import ROOT, routes

DOCUMENTS: list[dict[str, Any]] = list(
    yaml.safe_load_all((ROOT / "docs" / "kubernetes.yml").read_text())
)


def of(kind: str) -> dict[str, Any]:
    [document] = [document for document in DOCUMENTS if document["kind"] == kind]
    return document


POD: dict[str, Any] = of("Deployment")["spec"]["template"]["spec"]
[RELAY] = POD["containers"]
ENVIRONMENT: dict[str, str] = {entry["name"]: entry["value"] for entry in RELAY["env"]}


def test_every_document_has_what_kubernetes_wants() -> None:
    """Version, kind, name; the selectors find the pod."""
    for document in DOCUMENTS:
        assert {"apiVersion", "kind", "metadata"} <= set(document)
        assert document["metadata"]["name"] == "trickle-relay"
    labels = of("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert of("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert of("Service")["spec"]["selector"] == labels


def test_the_settings_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names exist and their values are taken; so is the secret's."""
    known = {variable_name(name) for name in Settings.model_fields}
    secret = of("Secret")["stringData"]
    assert set(ENVIRONMENT) | set(secret) <= known
    for name, value in {**ENVIRONMENT, **secret}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RELAY_STATE_DIR", "/tmp")
    load_settings({}, ROOT / "no-such.env")


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_probes_ask_what_answers_without_a_token(probe: str) -> None:
    """On a port that is there."""
    asked = RELAY[probe]["httpGet"]
    assert asked["path"] in OPEN_PATHS
    assert f"GET {asked['path']}" in routes()
    assert asked["port"] in {port["name"] for port in RELAY["ports"]}


def test_liveness_and_readiness_are_different_questions() -> None:
    """A relay that is full or drains is not to be restarted."""
    assert RELAY["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert RELAY["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_a_pod_has_time_to_drain() -> None:
    """More than both times of the relay together and a second."""
    drain_s = float(ENVIRONMENT["RELAY_DRAIN_TIMEOUT_S"])
    stop_s = Settings().stop_timeout_s
    assert POD["terminationGracePeriodSeconds"] > drain_s + stop_s + 1


def test_ports_and_user_are_the_image_s() -> None:
    """The API's, the metrics', and the user that the image makes."""
    ports = {port["name"]: port["containerPort"] for port in RELAY["ports"]}
    assert ports["api"] == Settings().port
    assert ports["metrics"] == int(ENVIRONMENT["RELAY_METRICS_PORT"])
    annotations = of("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["metrics"])
    user = POD["securityContext"]["runAsUser"]
    assert f"USER {user}" in (ROOT / "Dockerfile").read_text()
    mounts = {mount["name"]: mount["mountPath"] for mount in RELAY["volumeMounts"]}
    assert mounts["state"] == ENVIRONMENT["RELAY_STATE_DIR"]
    assert set(mounts) == {volume["name"] for volume in POD["volumes"]}
