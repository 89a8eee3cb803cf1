"""How many cores this process may use: those of the machine, less what it was denied."""

from __future__ import annotations

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def usable_cores(root: Path = CGROUPS, own_group: Path = OWN_GROUP) -> float:
    """Cores, by affinity (sched_getaffinity(2)) and by the CPU quotas of the control groups, which
    is how containers are limited; may be a fraction.

    Args:
        root: where control groups are mounted.
        own_group: names the one of this process (cgroups(7)).
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        allowed = os.cpu_count() or 1
    return min([float(allowed), *_quotas(root, own_group)])


def _quotas(root: Path, own_group: Path) -> list[float]:
    """In cores, of the process's group and those above it; none where there is no limit."""
    found = []
    for folder in _groups(root, own_group):
        try:
            if (limit := folder / "cpu.max").exists():  # version 2
                quota, period = limit.read_text().split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text().strip()
                period = (folder / "cpu.cfs_period_us").read_text().strip()
            if quota.isdigit() and int(quota) and int(period):  # not "max", not -1
                found.append(int(quota) / int(period))
        except (OSError, ValueError):
            continue
    return found


def _groups(root: Path, own_group: Path) -> list[Path]:
    try:
        lines = own_group.read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0":
            base = root
        elif "cpu" in controllers.split(","):
            base = root / "cpu"
        else:
            continue
        # Inside a container the name may be one of the host's, and only the top is there.
        group = base / name.strip("/")
        folders += [group, *(above for above in group.parents if above.is_relative_to(base))]
    return folders
