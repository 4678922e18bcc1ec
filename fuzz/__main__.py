"""`make fuzz`: hostile input for every parser. Only errors of our own tree may come out: no crash, no hang.

Each target runs in a child process with 2 GiB of memory beyond what it starts with. A child that dies of a signal, a
child that is silent for 30 s, and any exception but a UsjepaError are findings; their inputs are kept.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import UsjepaError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_SILENT_S = 30.0
_MEMORY_NBYTES = 2 << 30


def _child(target_name: str, count: int, seed: int, current: str, pipe: Connection) -> None:
    """Run `count` inputs of one target; tell the parent what came of each."""
    from fuzz.targets import targets

    warnings.simplefilter("ignore")  # decoders warn about what they refuse a moment later
    with tempfile.TemporaryDirectory() as folder:
        target = next(t for t in targets(Path(folder)) if t.name == target_name)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY_NBYTES, used + _MEMORY_NBYTES))
        rng = random.Random(f"{target_name}-{seed}")
        outcomes: Counter[str] = Counter()
        for done in range(count):
            data = target.make(rng)
            Path(current).write_bytes(data)
            try:
                target.run(data)
                outcomes["accepted"] += 1
            except UsjepaError as error:
                outcomes[type(error).__name__] += 1
            except BaseException as error:  # noqa: BLE001  anything else is a finding
                pipe.send(("finding", f"{type(error).__name__}: {error}", traceback.format_exc(), data))
            if done % 50 == 0:
                pipe.send(("alive", done, None, None))
        pipe.send(("done", dict(outcomes), None, None))


def _run(name: str, count: int, seed: int, keep: Path) -> dict[str, Any]:
    """Run one target in a child, again and again after each death of it, until its share of inputs is used up."""
    findings: list[str] = []
    current = str(keep / "current")
    receive, send = multiprocessing.Pipe(False)
    child = multiprocessing.get_context("fork").Process(target=_child, args=(name, count, seed, current, send))
    child.start()
    send.close()
    start, outcomes, done = time.monotonic(), {}, 0
    while True:
        if not receive.poll(_SILENT_S):
            findings.append(_kept(keep, name, len(findings), "hang", Path(current).read_bytes(), ""))
            child.kill()
            break
        try:
            kind, value, trace, data = receive.recv()
        except EOFError:
            break
        if kind == "finding":
            findings.append(_kept(keep, name, len(findings), value, data, trace))
        elif kind == "alive":
            done = value
        else:
            outcomes, done = value, count
    child.join()
    if child.exitcode not in (0, None) and done < count:
        findings.append(_kept(keep, name, len(findings), f"died with {child.exitcode}", Path(current).read_bytes(), ""))
    return {"target": name, "inputs": done, "seconds": round(time.monotonic() - start, 1), "outcomes": outcomes,
            "findings": findings}  # fmt: skip


def _kept(keep: Path, name: str, number: int, what: str, data: bytes, trace: str) -> str:
    if number < 20:
        stem = keep / f"{re.sub('[^a-z0-9]+', '-', name.lower())}-{number}"
        stem.with_suffix(".bin").write_bytes(data)
        stem.with_suffix(".txt").write_text(f"{what}\n{trace}")
    return what[:200]


def main() -> None:
    """Fuzz all targets; exit 1 when anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="targets whose name holds this")
    parser.add_argument("--keep", type=Path, default=Path("fuzz/found"), help="folder for inputs that found something")
    parser.add_argument("--json", type=Path, default=None)
    asked = parser.parse_args()
    asked.keep.mkdir(parents=True, exist_ok=True)
    from fuzz.targets import targets

    with tempfile.TemporaryDirectory() as folder:
        plan = [(t.name, t.share) for t in targets(Path(folder)) if asked.only in t.name]
    total = sum(share for _, share in plan)
    results = []
    for name, share in plan:
        result = _run(name, max(1, round(asked.inputs * share / total)), asked.seed, asked.keep)
        results.append(result)
        print(
            f"{name:24s} {result['inputs']:7,d} inputs {result['seconds']:7.1f} s  {result['outcomes']}  "
            f"{len(result['findings'])} findings",
            flush=True,
        )
        for finding in sorted(set(result["findings"])):
            print(f"    {finding}", flush=True)
    (asked.keep / "current").unlink(missing_ok=True)
    if asked.json is not None:
        asked.json.write_text(json.dumps(results, indent=1) + "\n")
    found = sum(len(result["findings"]) for result in results)
    print(f"{sum(result['inputs'] for result in results):,} inputs, {found} findings")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
