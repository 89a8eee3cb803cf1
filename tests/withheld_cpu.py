"""CPU time that the hypervisor gave to others: "steal" of proc_stat(5), which is 0 on a machine of
one's own.

Media tests run in real time. One that fails while most of the CPU is away says nothing of what it
names: what came late was the machine. So it is run once more as soon as there is CPU again, and
the summary says so. Where nothing was withheld, which is nearly always, a failure is a failure.
"""

from __future__ import annotations

import time
from pathlib import Path

MOST = 0.15
"""Share of the CPUs' time; tests that share two CPUs three at once feel more than that."""
QUIET = 0.05
LONGEST_WAIT_S = 60.0
_LOOK_S = 1.0
_STEAL = 7
"""Its place after "cpu": user, nice, system, idle, iowait, irq, softirq, steal."""


class WithheldCpu:
    """From its making on.

    Args:
        stat: the file of proc_stat(5); a machine without one withholds nothing.
    """

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._steal, self._total = self._read()

    @property
    def share(self) -> float:
        """Of all CPUs' time, 0 to 1."""
        steal, total = self._read()
        return (steal - self._steal) / (total - self._total) if total > self._total else 0.0

    def _read(self) -> tuple[int, int]:
        try:
            line = self._stat.read_text().splitlines()[0]
        except OSError:
            return 0, 0
        ticks = [int(text) for text in line.split()[1 : _STEAL + 2]]
        return ticks[_STEAL], sum(ticks)


def wait_for_cpu() -> None:
    """Return when the machine has its CPU again, or has not for long."""
    deadline = time.monotonic() + LONGEST_WAIT_S
    while time.monotonic() < deadline:
        withheld = WithheldCpu()
        time.sleep(_LOOK_S)  # what is measured is this time
        if withheld.share < QUIET:
            return
