"""Folds of a folder of real frames: in turn each part of its patients is tested on, and no training sees it.

A few dozen patients are too few to set some of them aside: a score over ten patients moves by ten points when others
are drawn. With folds every patient is tested on once.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import xxhash

from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.sources.registry import split_path

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from usjepa.cache.sources.base import Entry

Group = tuple[str, str]
"""Dataset and group."""


def deal(entries: Iterable[Entry], folds: int) -> dict[Group, int]:
    """Return the fold that tests each group: those of a dataset in turn, by their commonest label and then by hash."""
    labels: dict[Group, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        labels[entry.dataset, entry.group][entry.label] += 1

    def place(group: Group) -> tuple[str, str, int]:
        found = labels[group]
        commonest = min(found, key=lambda label: (-found[label], label))
        return group[0], commonest, xxhash.xxh3_64_intdigest("\0".join(group).encode())

    dealt: Counter[str] = Counter()
    fold_of: dict[Group, int] = {}
    for group in sorted(labels, key=place):
        fold_of[group] = dealt[group[0]] % folds
        dealt[group[0]] += 1
    return fold_of


def fold_manifests(source: str, folder: Path, folds: int) -> list[str]:
    """Write a manifest a fold beside links to (or copies of) the source's files; return the manifests' paths.

    Raises:
        UsageError: the source holds nothing that is read.
    """
    listing = list_source(source, load_recipe("demo").cache)
    if listing.root is None:
        raise SystemExit(f"{source}: folds are made of files.")
    fold_of = deal(listing.entries, folds)
    files = sorted({split_path(entry.path)[0] for entry in listing.entries})
    copied = sum(_bring(listing.root / file, folder / file) for file in files)
    if copied:
        print(f"{folder}: {copied / 1e6:,.0f} MB copied: links to {listing.root} are not possible there", flush=True)
    manifests = []
    for fold in range(folds):
        manifest = folder / f"fold-{fold}.csv"
        with manifest.open("w", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["path", "dataset", "label", "group", "split"])
            for entry in listing.entries:
                split = "test" if fold_of[entry.dataset, entry.group] == fold else "train"
                writer.writerow([entry.path, entry.dataset, entry.label, entry.group, split])
        manifests.append(str(manifest))
    return manifests


def _bring(file: Path, target: Path) -> int:
    """Link a file, or copy it where that can't be done, as a manifest's paths may not lead out of its folder; return
    the bytes copied."""
    if target.exists():
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except OSError:
        part = target.with_name(target.name + ".part")  # a copy cut short must not count as one
        shutil.copy2(file, part)
        return part.replace(target).stat().st_size
    return 0
