"""Wait for what another process does, and fail at once where it can no longer do it."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess

_PATIENCE_S = 120.0
"""Only a hang takes so long, on a machine as busy as may be."""


def wait_until(
    reached: Callable[[], object], *doers: subprocess.Popen[bytes] | subprocess.Popen[str] | BaseProcess
) -> None:
    """Return as soon as `reached()` is true; fail when one of those that work towards it has ended, or time is up."""
    end = time.monotonic() + _PATIENCE_S
    while not reached():
        codes = [doer.poll() if isinstance(doer, subprocess.Popen) else doer.exitcode for doer in doers]
        assert set(codes) <= {None} or reached(), f"a process ended with {codes} before it was reached"
        assert time.monotonic() < end, f"not reached within {_PATIENCE_S:.0f} s"
        time.sleep(0.01)
