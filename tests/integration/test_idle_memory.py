"""What a relay without sessions has loaded."""

from __future__ import annotations

import subprocess
import sys


def test_what_only_sound_needs_is_not_loaded_without_it() -> None:
    """numpy is a tenth of an idle process's memory."""
    code = "import sys, trickle_relay_service; print('numpy' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
