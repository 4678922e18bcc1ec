"""Injure the files of a system once, and say how its reader ends."""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.faults.systems import System


def flip_a_bit(rng: random.Random, system: System, root: Path, old: Path) -> None:
    path = rng.choice(system.files(root))
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def zero_a_page(rng: random.Random, system: System, root: Path, old: Path) -> None:
    path = rng.choice(system.files(root))
    data = bytearray(path.read_bytes())
    start = rng.randrange(max(1, len(data) - 4096))
    data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    path.write_bytes(data)


def delete_a_file(rng: random.Random, system: System, root: Path, old: Path) -> None:
    rng.choice(system.files(root)).unlink()


def empty_a_file(rng: random.Random, system: System, root: Path, old: Path) -> None:
    rng.choice(system.files(root)).write_bytes(b"")


def cut_a_file(rng: random.Random, system: System, root: Path, old: Path) -> None:
    path = rng.choice(system.files(root))
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(1, len(data))])


def swap_two_rows(rng: random.Random, system: System, root: Path, old: Path) -> None:
    """Swap two files, or where a file holds all rows, the bytes of two rows within it."""
    files = system.files(root)
    if len(files) > 1:
        one, two = rng.sample(files, 2)
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
        return
    rows, data = list(system.read(root)), files[0].read_bytes()
    (_, one_row), (_, two_row) = rng.sample(rows, 2)
    a, b = data.index(one_row.tobytes()), data.index(two_row.tobytes())
    changed = bytearray(data)
    changed[a : a + one_row.nbytes], changed[b : b + one_row.nbytes] = two_row.tobytes(), one_row.tobytes()
    files[0].write_bytes(changed)


def bring_back_an_older_file(rng: random.Random, system: System, root: Path, old: Path) -> None:
    path = rng.choice(system.files(root))
    path.write_bytes((old / path.relative_to(root)).read_bytes())


INJURIES: dict[str, tuple[Any, int]] = {
    "one bit flipped": (flip_a_bit, 200),
    "a page of 4 KiB zeroed": (zero_a_page, 50),
    "a file deleted": (delete_a_file, 25),
    "a file of zero bytes": (empty_a_file, 25),
    "a file cut": (cut_a_file, 50),
    "two rows or files swapped": (swap_two_rows, 25),
    "an older file brought back": (bring_back_an_older_file, 25),
}


def outcome(system: System, root: Path, truth: list[NDArray[Any]], whole: bool = True) -> str:
    """Read everything and say how it went; with `whole`, a row that is not there counts as silently lost."""
    seen = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for row, content in system.read(root):
                seen += 1
                if content.shape != truth[row].shape or content.tobytes() != truth[row].tobytes():
                    return "silent"
    except Exception:  # noqa: BLE001  whatever a reader raises, it has refused
        return "raised"
    return "silent" if whole and seen < len(truth) else "unharmed"


def injured(system: System, injure: Any, trials: int, folder: Path, rng: random.Random) -> Counter[str]:
    """Count the outcomes of one injury to one system."""
    system.write(folder / "whole", 0)
    system.write(folder / "old", 1)
    truth = [content for _, content in system.read(folder / "whole")]
    counts: Counter[str] = Counter()
    for _ in range(trials):
        shutil.copytree(folder / "whole", folder / "trial")
        injure(rng, system, folder / "trial", folder / "old")
        counts[outcome(system, folder / "trial", truth)] += 1
        shutil.rmtree(folder / "trial")
    return counts
