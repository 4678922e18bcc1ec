"""Describe a scan to the user: files, frames, sizes, datasets, duplicates, unreadable files."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.frames.blank import frames_lines
from usjepa.cache.scanning.changes import passed_over_lines
from usjepa.cache.sources.files.stamps import name_of
from usjepa.cache.sources.grouping import describe_groups
from usjepa.cache.terminal.streams import shown_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from usjepa.cache.scanning.blank_frames import Looked
    from usjepa.cache.sources.base import Listing
    from usjepa.cache.store.tables import SourceTable

_MOST_LINES = 20
"""Lines of a list that are printed; the rest is counted."""


def describe(
    source: str,
    listing: Listing,
    table: SourceTable,
    rows: int,
    straddling: Sequence[tuple[str, str]],
    imageless: Sequence[str] = (),
    looked: Looked | None = None,
) -> str:
    """Return the report.

    Args:
        source: as the user named it.
        listing: what was scanned.
        table: what the scan found, splits assigned.
        rows: number of rows that the recipe would cut from it.
        straddling: groups that had sources both in test and elsewhere.
        imageless: a line per file that was left out, for it holds no image.
        looked: which frames show no echo, of those that were looked at.
    """
    readable = table.take(table.error == "")
    lines = [
        f"{source}: {len(table):,} sources, {int(table.frames.sum()):,} decoded frames, {rows:,} rows",
        *[f"note: {shown_name(note)}" for note in listing.notes],
        *describe_groups(listing.entries),
        f"readers: {_counted(name_of(stamp) for stamp in table.reader)}",
        f"sizes (height x width): {_sizes(readable)}",
        *_spacing(readable),
        *passed_over_lines([readable]),
        "",
        *_groups_table(readable),
    ]
    if straddling:
        named = [f"{dataset}/{group}" if dataset else group for dataset, group in straddling]
        lines += _section("groups with sources in and outside `test`, now wholly test", named)
    lines += _section("duplicates (same content)", _duplicates(readable))
    lines += _section("left out, without an image", imageless)
    if looked is not None and looked.blank:
        title = f"blank frames (no echo; cache.on_blank says what becomes of them), of {looked.frames:,} looked at"
        lines += ["", f"{title}: {len(looked.blank):,}", *frames_lines(looked.blank)]
    failed = table.take(table.error != "")
    lines += _section("unreadable", [str(error) for error in failed.error])
    return "\n".join(lines)


def _counted(values: Iterable[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(Counter(values).items())) or "none"


def _sizes(readable: SourceTable) -> str:
    sizes = Counter(zip(readable.height.tolist(), readable.width.tolist(), strict=True))
    if not sizes:
        return "none"
    common = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:3]
    listed = ", ".join(f"{height} x {width} ({count:,})" for (height, width), count in common)
    if len(sizes) <= len(common):
        return listed
    smallest, largest = min(sizes, key=lambda s: s[0] * s[1]), max(sizes, key=lambda s: s[0] * s[1])
    return f"{len(sizes)} different, {smallest[0]} x {smallest[1]} to {largest[0]} x {largest[1]}; most often {listed}"


def _spacing(readable: SourceTable) -> list[str]:
    """Return a line on how large the pixels are, where any source says so."""
    spacing = np.stack([readable.spacing_down, readable.spacing_across])
    known = spacing[:, ~np.isnan(spacing).any(axis=0)]
    if not known.size:
        return []
    span = f"{known.min():.4g} to {known.max():.4g} mm per pixel"
    return [f"spacing: known of {known.shape[1]:,} of {len(readable):,} sources, {span}"]


def _groups_table(readable: SourceTable) -> list[str]:
    """Return a line per (dataset, label, split), aligned."""
    sums: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    groups: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    columns = (readable.dataset, readable.label, readable.split, readable.group, readable.frames.tolist())
    for dataset, label, split, group, frames in zip(*columns, strict=True):
        key = (dataset, label, split)
        sums[key][0] += 1
        sums[key][1] += frames
        groups[key].add(group)
    cells: list[tuple[str, ...]] = [("dataset", "label", "split", "sources", "frames", "groups")]
    for key in sorted(sums):
        counts = (f"{number:,}" for number in (*sums[key], len(groups[key])))
        cells.append((*(shown_name(name) or "-" for name in key), *counts))
    widths = [max(len(row[i]) for row in cells) for i in range(6)]
    return [
        "  ".join([*(row[i].ljust(widths[i]) for i in range(3)), *(row[i].rjust(widths[i]) for i in range(3, 6))])
        for row in cells
    ]


def _duplicates(readable: SourceTable) -> list[str]:
    """Return a line per content that several sources share, marked where they lie in different splits."""
    same: dict[str, list[int]] = defaultdict(list)
    for i, content in enumerate(readable.content_hash):
        same[content].append(i)
    lines = []
    for alike in same.values():
        if len(alike) > 1:
            splits = {readable.split[i] == "test" for i in alike}
            leak = "  (both in and outside `test`: leakage)" if len(splits) > 1 else ""
            lines.append(" = ".join(readable.path[i] for i in alike) + leak)
    return lines


def _section(title: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    more = [f"  ... and {len(items) - _MOST_LINES:,} more"] if len(items) > _MOST_LINES else []
    return ["", f"{title}: {len(items):,}", *[f"  {shown_name(item)}" for item in items[:_MOST_LINES]], *more]
