"""Train on one rank and on two, and compare what they lose: `python -m benchmarks.gpu.two_ranks`.

Two GPUs use NCCL, two processors gloo. The draws are the same; the losses differ by the order of sums alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import Goal, describe, report

_SMALL = ("--pipeline", "demo", "--set", "cache.phantom.patients=8", "--set", "train.epochs=2",
          "--set", "train.warmup_epochs=0")  # fmt: skip
_MAIN = "from usjepa.{package}.cli import main; main()"
_LEAST = 0.999
"""The two ranks' loss over the one rank's, the smaller over the larger."""


def main() -> None:
    """Train twice, print and write gpu-two-ranks.json; exit with 1 where losses differ."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "train.py").write_text(_MAIN.format(package="train"))
        store, one, two = (str(place / name) for name in ("s.zarr", "one", "two"))
        _run("-c", _MAIN.format(package="cache"), "build", store, *_SMALL, "--teacher", "random")
        _run(str(place / "train.py"), store, one, *_SMALL)
        ranks = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        _run(*ranks, str(place / "train.py"), store, two, *_SMALL)
        alone, shared = _losses(Path(one)), _losses(Path(two))
    samples = {"loss of one rank": alone, "loss of two ranks": shared}
    goal = Goal("loss of two ranks / of one, the smaller over the larger",
                [min(pair) for pair in zip(alone, shared, strict=True)],
                [max(pair) for pair in zip(alone, shared, strict=True)], _LEAST)  # fmt: skip
    report("gpu-two-ranks", "loss", samples, describe(("torch", "timm", "usjepa")), "steps of two epochs", [goal])
    sys.exit(goal.ratio()[0] < _LEAST)


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True)


def _losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


if __name__ == "__main__":
    main()
