"""Child processes that start with everything imported: a kill test costs milliseconds, not the import of timm."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preload"])


def start(function: Callable[..., None], *args: Any) -> multiprocessing.process.BaseProcess:
    """Start `function(*args)` in a fresh child of a parent that has imported torch, timm and usjepa."""
    process = _CONTEXT.Process(target=function, args=args)
    process.start()
    return process


def run(function: Callable[..., None], *args: Any, timeout: float = 120) -> int:
    """Run `function(*args)` in such a child and return its exit code (-9 after SIGKILL)."""
    process = start(function, *args)
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"{function.__name__} did not end within {timeout} s")
    return process.exitcode


def die_at_durable_step(step: int) -> None:
    """Make this process SIGKILL itself at the step-th fsync or rename from now on: between any two durable states."""
    count = 0
    real = {"fsync": os.fsync, "replace": os.replace}

    def counted(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real[name](*args, **kwargs)

        return call

    os.fsync = counted("fsync")
    os.replace = counted("replace")
