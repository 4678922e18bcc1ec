"""Run programs in processes of their own, as users do, and show where one of them hangs."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LIMIT_S = 240.0
"""A program that takes longer hangs; pytest's own limit is 300."""


def run_command(
    command: Sequence[object], env: Mapping[str, str] | None = None, text: str | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it printed; `env` adds to the environment, `text` is its stdin."""
    return _ended(_started(command, env, stdin=subprocess.PIPE, **options), text)


def stop_command(
    command: Sequence[object], number: signal.Signals, reached: Callable[[], object], **options: Any
) -> subprocess.CompletedProcess[str]:
    """Start a program, send it a signal once something is reached, and return how it ended."""
    process = _started(command, None, **options)
    try:
        wait_until(reached, process)
        process.send_signal(number)
        return _ended(process)
    finally:
        process.kill()


def _started(command: Sequence[object], env: Mapping[str, str] | None, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1", **(env or {})}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([str(part) for part in command], env=environment, text=True, **streams)


def _ended(process: subprocess.Popen[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        printed, told = process.communicate(text, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # of which Python's faulthandler prints the stacks of all threads
        printed, told = process.communicate()
        raise AssertionError(f"{process.args!r} hung:\n{printed}\n{told}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, printed, told)
