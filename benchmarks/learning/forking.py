"""Fork commands from a process that has imported what they need, to start them at once.

Importing torch and timm takes a command 4 to 10 s; a budget of minutes has sixteen commands.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import sys
from typing import TYPE_CHECKING

from benchmarks.learning.work import Work

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

COMMANDS = {f"usjepa-{stage}": f"usjepa.{stage}.cli" for stage in ("cache", "train", "evaluate")}
HEAVY = (*COMMANDS.values(), "usjepa.cache.building.build", "usjepa.train.run.loop", "usjepa.evaluate.run")
"""Modules that commands import in their bodies. None asks for a GPU; the one thread is that of Arrow's allocator, which
minds forks."""


class ForkedWork(Work):
    """Commands in a folder, each a process of its own that has its imports already."""

    def run(self, command: str, arguments: list[str]) -> tuple[int, float]:
        """Run a command into the log; return how it exited and its processor seconds, without imports."""
        os.environ["OMP_NUM_THREADS"] = "1"  # read by the server as it starts
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(HEAVY))
        told, tells = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(command, arguments, self.log, tells))
        process.start()
        tells.close()
        process.join()
        assert process.exitcode is not None
        return process.exitcode, told.recv() if told.poll() else float("nan")


def _run(command: str, arguments: list[str], log: Path, tells: Connection) -> None:
    """Be a command: its arguments, its output, its exit."""
    with log.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.argv = [command, *arguments]
    try:
        importlib.import_module(COMMANDS[command]).main(arguments, prog_name=command)
    finally:
        taken = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        tells.send(sum(usage.ru_utime + usage.ru_stime for usage in taken))
