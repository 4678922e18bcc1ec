"""Run on one GPU, within minutes, all that was never run without one: `make gpu-check`.

    python -m benchmarks.gpu [--minutes 12] [--device cuda | cpu]

Each part is a process with a limit of its own, and never begins when its limit would pass the end. What each found goes
to benchmarks/results/gpu.json, also what failed or was left out, and a paragraph for docs/figures.md is printed. With
`--device cpu` the parts are tiny: that shows that the command works, and its figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.parts import parts
from benchmarks.machine import describe, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.gpu.parts import Part

_TAIL = 20
"""Lines of a part's output that are kept."""


def main() -> None:
    """Run the parts, write gpu.json, print the paragraph; exit with 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--patience", type=float, default=1, help="times each part's limit, on a busy machine")
    asked = parser.parse_args()
    on_gpu = asked.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        sys.exit("no GPU that torch can use (usjepa-cache doctor says why); --device cpu tries the command itself.")
    gpus = torch.cuda.device_count() if on_gpu else 2  # of processors there are as many as there are ranks
    end = time.monotonic() + 60 * asked.minutes
    found: dict[str, dict[str, Any]] = {}
    for part in parts(small=not on_gpu):
        patient = replace(part, limit_s=round(part.limit_s * asked.patience))
        found[part.name] = run(patient, gpus, end, asked.device)
        print(f"{part.name}: {found[part.name]['ended']} ({found[part.name]['seconds']:.0f} s)", flush=True)
    document = {"device": _device(on_gpu), "machine": describe(("torch", "timm", "usjepa", "numpy")), "parts": found}
    write_results("gpu", document)
    print("\n" + paragraph(document))
    sys.exit(any(part["ended"].startswith(("failed", "out of time")) for part in found.values()))


def _device(on_gpu: bool) -> str:
    if not on_gpu:
        return "cpu (tiny parts: no figures)"
    about = torch.cuda.get_device_properties(0)
    return f"{torch.cuda.device_count()} x {about.name}, {about.total_memory / 2**30:.0f} GiB"


def run(part: Part, gpus: int, end: float, device: str) -> dict[str, Any]:
    """Run a part and return how it ended, its seconds, the end of its output, and the result it wrote."""
    left = end - time.monotonic()
    if gpus < part.gpus:
        return _left_out(part, f"left out: needs {part.gpus} GPUs, there is {gpus}")
    if left < part.limit_s:
        return _left_out(part, f"left out: {left:.0f} s are left, and it may take {part.limit_s}")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        env = {
            **os.environ,
            "USJEPA_RESULTS": folder,
            **({} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}),
        }
        command = [sys.executable, *part.arguments]
        try:
            done = subprocess.run(
                command, env=env, timeout=part.limit_s, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            ended, output = "passed" if done.returncode == 0 else f"failed with {done.returncode}", done.stdout
        except subprocess.TimeoutExpired as late:
            ended, output = f"out of time after {part.limit_s} s", (late.stdout or b"").decode(errors="replace")
        results = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    seconds = time.monotonic() - start
    return {**_left_out(part, ended), "seconds": seconds, "output": output.splitlines()[-_TAIL:], "results": results}


def _left_out(part: Part, why: str) -> dict[str, Any]:
    return {"what": part.what, "ended": why, "seconds": 0.0, "output": [], "results": []}


def paragraph(document: dict[str, Any]) -> str:
    """Return what was found as Markdown, a line per ratio and per part without one."""
    lines = [f"### On a GPU\n{document['device']}; `make gpu-check` (`gpu.json`).\n", "| what | |", "|---|---|"]
    for name, part in document["parts"].items():
        figures = [line for result in part["results"] for line in _figures(result)]
        lines += figures if part["ended"] == "passed" and figures else [f"| {name}: {part['what']} | {_end(part)} |"]
    return "\n".join(lines)


def _figures(result: dict[str, Any]) -> Sequence[str]:
    ratios = result.get("ratios_min_median_max", {})
    found = [
        f"| {what} | {about['ratio'][1]:.2f}x" + (f" (goal {about['goal']:g})" if about["goal"] else "") + " |"
        for what, about in ratios.items()
    ]
    rows = result["min_median_max"].items()
    return found or [f"| {what} | {values[1]:,.2f} {result['unit']} |" for what, values in rows]


def _end(part: dict[str, Any]) -> str:
    last = next((line for line in reversed(part["output"]) if line.strip()), "")
    return part["ended"] if part["ended"] != "passed" else f"passed: {last.strip('= ')}"


if __name__ == "__main__":
    main()
