"""Measure peers beside ourselves, each in a process of its own.

Not in `__main__.py`: a spawned process does not import that again and would find no function of it.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

from benchmarks.read.bench import FRESH, OURS, Bench, Samples
from benchmarks.read.limits import TAKE
from benchmarks.read.peers import PEERS, files_below

if TYPE_CHECKING:
    from pathlib import Path


def beside_peers(root: Path, rounds: int, batch: int) -> tuple[Samples, dict[str, str]]:
    """Peers, ourselves and np.take beside each of them; and which peers are missing, and why."""
    samples: Samples = {}
    missing: dict[str, str] = {}
    for peer in PEERS:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            try:
                samples |= process.submit(_beside_peer, peer.__name__, root, rounds, batch).result()
            except (ImportError, AttributeError) as error:
                missing[peer.__name__] = f"{type(error).__name__}: {error}"
    return samples, missing


def _beside_peer(name: str, root: Path, rounds: int, batch: int) -> Samples:
    """In a process of its own: a peer's contenders, after an epoch of the store, the flat file and the peer's files."""
    bench, known = Bench(root, rounds), files_below(root)
    (peer,) = (peer for peer in PEERS if peer.__name__ == name)
    found = peer(root / "store", bench.latents)
    own = sorted(files_below(root) - known)
    try:
        bench.epoch(batch)
        bench.an_epoch(next(iter(found.values())), own, batch)
        mine = {who: read for who, read in bench.readers(batch).items() if who in (OURS + FRESH, TAKE)}
        samples = bench.measure({**mine, **found}, batch, bench.sweep)
    finally:
        for path in own:
            path.unlink()
    return {beside(who, name) if who in mine else who: values for who, values in samples.items()}


def beside(who: str, peer: str) -> str:
    return f"{who}, beside {peer}"
