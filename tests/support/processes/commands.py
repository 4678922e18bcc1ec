"""Run Python programs as users do, wait for what they do, and show where one hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.process import BaseProcess

LIMIT_S = 240.0
"""A program that takes longer hangs; pytest's own limit is 300."""


def run_python(
    *arguments: object,
    code: int | None = 0,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    limit_s: float = LIMIT_S,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run the interpreter to its end; return what it printed.

    Args:
        arguments: "-c" and a program, or "-m" and a module, and what it is given.
        code: the exit code that it must have; None for any.
        env: added to this process's environment.
        stdin: what it reads.
        limit_s: what takes longer hangs; a slow test may need more.
        options: of subprocess.Popen.
    """
    process = _started(arguments, env, stdin=subprocess.PIPE, **options)
    return _ended(process, code, stdin, limit_s)


def stop_python(
    number: int, reached: Callable[[], object], *arguments: object, code: int = 75
) -> subprocess.CompletedProcess[str]:
    """Start the interpreter, send it a signal once something is reached, and return what it printed to its end."""
    process = _started(arguments, None)
    try:
        wait_until(reached, process)
        process.send_signal(number)
        return _ended(process, code)
    finally:
        process.kill()


def wait_until(
    reached: Callable[[], object], *doers: subprocess.Popen[bytes] | subprocess.Popen[str] | BaseProcess
) -> None:
    """Return as soon as `reached()` is true; fail when one of those that work towards it has ended, or time is up."""
    end = time.monotonic() + LIMIT_S
    while not reached():
        codes = [doer.poll() if isinstance(doer, subprocess.Popen) else doer.exitcode for doer in doers]
        assert set(codes) <= {None} or reached(), f"a process ended with {codes} before it was reached"
        assert time.monotonic() < end, f"not reached within {LIMIT_S:.0f} s"
        time.sleep(0.01)


def _started(arguments: tuple[object, ...], env: Mapping[str, str] | None, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1", **(env or {})}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, *map(str, arguments)], env=environment, text=True, **streams)


def _ended(
    process: subprocess.Popen[str], code: int | None, stdin: str = "", limit_s: float = LIMIT_S
) -> subprocess.CompletedProcess[str]:
    try:
        printed, told = process.communicate(stdin or None, timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # of which Python's faulthandler prints the stacks of all threads
        printed, told = process.communicate()
        raise AssertionError(f"it hung:\n{printed}\n{told}") from None
    assert code in (None, process.returncode), f"exit code {process.returncode}:\n{printed}\n{told}"
    return subprocess.CompletedProcess(process.args, process.returncode, printed, told)
