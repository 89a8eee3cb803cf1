"""A pytest plugin: what fails while the machine has no CPU is run again (see `withheld_cpu`)."""

from __future__ import annotations

import pytest
import pytest_timeout
from _pytest.runner import runtestprotocol

from tests import withheld_cpu

_PROPERTY = "cpu_withheld"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """As pytest's own, but for the second try."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    withheld = withheld_cpu.WithheldCpu()
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    share = withheld.share
    if any(report.failed for report in reports) and share > withheld_cpu.MOST:
        item.ihook.pytest_timeout_cancel_timer(item=item)
        withheld_cpu.wait_for_cpu()
        limits = pytest_timeout._get_item_settings(item)
        if limits.timeout:
            item.ihook.pytest_timeout_set_timer(item=item, settings=limits)
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        for report in reports:
            report.user_properties.append((_PROPERTY, f"{share:.0%}"))
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was run again, and for how much CPU that was away."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, share in getattr(report, "user_properties", []):
                if name == _PROPERTY and report.when == "call":
                    terminalreporter.line(
                        f"RUN AGAIN {report.nodeid}: {share} of the CPU was withheld"
                    )
