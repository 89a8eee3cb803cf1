"""When a test that failed is run again: what the hypervisor kept, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.withheld_cpu import MOST, WithheldCpu

pytest_plugins = ["pytester"]


def stat(path: Path, *, user: int, idle: int, steal: int) -> Path:
    path.write_text(f"cpu  {user} 0 0 {idle} 0 0 0 {steal} 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
    return path


def test_it_is_the_share_since_it_was_made(tmp_path: Path) -> None:
    """Of the time of all CPUs."""
    file = stat(tmp_path / "stat", user=1000, idle=1000, steal=500)
    withheld = WithheldCpu(file)
    assert withheld.share == 0.0
    stat(file, user=1050, idle=1010, steal=540)
    assert withheld.share == pytest.approx(0.4)


def test_a_machine_that_does_not_tell_withholds_nothing(tmp_path: Path) -> None:
    """No such file: every failure counts."""
    assert WithheldCpu(tmp_path / "none").share == 0.0


FAILS_ONCE = """
    from pathlib import Path

    def test_it():
        tried = Path({path!r})
        if not tried.exists():
            tried.touch()
            raise AssertionError("the first time")
"""


@pytest.mark.parametrize(("share", "passes"), [(MOST + 0.01, True), (MOST - 0.01, False)])
def test_only_then_a_failure_is_tried_again(
    share: float, passes: bool, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and the summary tells."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(FAILS_ONCE.format(path=str(pytester.path / "tried")))
    monkeypatch.setattr("tests.withheld_cpu.WithheldCpu.share", share)
    monkeypatch.setattr("tests.withheld_cpu.wait_for_cpu", lambda: None)
    result = pytester.inline_run("-p", "tests.run_again")
    result.assertoutcome(passed=int(passes), failed=int(not passes))
