"""How many cores there are to use, of what the system says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relay.cores import usable_cores


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def group(tmp_path: Path, line: str) -> Path:
    own = tmp_path / "self"
    own.write_text(line + "\n")
    return own


def limit(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_affinity_is_the_most(tmp_path: Path) -> None:
    """Without control groups, and with those that say nothing."""
    assert usable_cores(tmp_path, tmp_path / "none") == 8
    limit(tmp_path / "cgroup", cpu__max="max 100000")
    assert usable_cores(tmp_path / "cgroup", group(tmp_path, "0::/")) == 8


def test_the_quota_of_a_container(tmp_path: Path) -> None:
    """Version 2, also a part of a core, and the smallest on the way up."""
    root = tmp_path / "cgroup"
    limit(root / "pods", cpu__max="150000 100000")
    limit(root / "pods" / "mine", cpu__max="400000 100000")
    assert usable_cores(root, group(tmp_path, "0::/pods/mine")) == 1.5


def test_a_group_that_only_the_host_has(tmp_path: Path) -> None:
    """Inside a container its own group is the top."""
    limit(tmp_path / "cgroup", cpu__max="200000 100000")
    assert usable_cores(tmp_path / "cgroup", group(tmp_path, "0::/docker/abc")) == 2


def test_version_1(tmp_path: Path) -> None:
    """Quota and period in two files; -1 is none."""
    root = tmp_path / "cgroup"
    own = group(tmp_path, "4:cpu,cpuacct:/docker")
    limit(root / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert usable_cores(root, own) == 8
    limit(root / "cpu" / "docker", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    assert usable_cores(root, own) == 0.5


def test_what_makes_no_sense_is_no_limit(tmp_path: Path) -> None:
    """Whatever the system writes there."""
    limit(tmp_path / "cgroup", cpu__max="nonsense")
    assert usable_cores(tmp_path / "cgroup", group(tmp_path, "0::/")) == 8
