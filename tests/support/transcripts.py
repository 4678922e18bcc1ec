"""Read the transcripts of a documentation page, run their commands again, and compare what is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OMITTED = "..."
_CODE = re.compile(r"\s+# exit code (\d+)$")


@dataclass(frozen=True)
class Step:
    """A command of a transcript, the lines that the page shows of its output, and its exit code."""

    command: str
    shown: tuple[str, ...]
    code: int


def steps_of(text: str) -> list[Step]:
    """Return the steps of every `console` block of a page, in order; `$` begins a command, `# exit code N` ends one."""
    steps: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.S | re.M):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, *shown = part.replace("\\\n", " ").splitlines()
            code = _CODE.search(command)
            steps.append(Step(_CODE.sub("", command), tuple(shown), int(code[1]) if code else 0))
    return steps


def masked(line: str) -> str:
    """Return a line with every number as `#`: speeds and times differ from machine to machine."""
    return re.sub(r"\d[\d,.]*|[0-9a-f]{32}", "#", line).rstrip()


def run(step: Step, folder: Path) -> list[str]:
    """Run a step in a folder and return the lines that it printed, errors among them."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", step.command],
        cwd=folder,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == step.code, f"{step.command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout.splitlines()


def not_printed(step: Step, printed: list[str]) -> list[str]:
    """Return the shown lines that were not printed in that order, numbers aside."""
    lines, start, missing = [masked(line) for line in printed], 0, []
    for line in step.shown:
        if line == OMITTED:
            continue
        if masked(line) in lines[start:]:
            start = lines.index(masked(line), start) + 1
        else:
            missing.append(line)
    return missing
