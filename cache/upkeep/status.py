"""Report per layer what is written, what failed and why, and what is missing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from usjepa.cache.frames.blank import blank_lines
from usjepa.cache.scanning.changes import passed_over_told
from usjepa.cache.storage.location import open_storage
from usjepa.cache.store.columns import batches
from usjepa.cache.store.commits import Commit, committed_layers
from usjepa.cache.store.generations import rows_of
from usjepa.cache.store.origins.segment_tables import open_sources
from usjepa.cache.store.origins.spacing import spacing_in_batches, spacing_told
from usjepa.cache.store.state import State, read_state
from usjepa.cache.store.tables import WITHDRAWN, SourceTable
from usjepa.cache.terminal.streams import shown_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.layers import Layer

_SHOWN_FAILURES = 20


def status_report(store: str) -> str:
    """Return the state of a store as text.

    Raises:
        FormatError: no store there.
        DamageError: its own descriptions contradict one another.
    """
    storage = open_storage(store)
    state = read_state(storage)
    lines = [_headline(storage, state)]
    for segment in state.segments:
        lines.append(
            f"segment {segment.number}: rows {segment.first_row:,} to {segment.first_row + segment.rows - 1:,}"
        )
    holes: set[tuple[int, str]] = set()
    blank: set[tuple[int, str]] = set()
    doubtful: set[tuple[int, str]] = set()
    found = committed_layers(storage, list(state.layers.values()))
    for name, layer in sorted(state.layers.items()):
        done = found[name]
        lines += _layer_lines(name, layer, state, done)
        holes |= {hole for commit in done.values() for hole in commit.holes}
        blank |= {row for commit in done.values() for row in commit.blank}
        doubtful |= {row for commit in done.values() for row in commit.doubtful}
    lines += [_spacing(storage, state, holes)]
    lines += passed_over_told(_sources(storage, state, "passed_over", "frames"))
    lines += _told("blank rows", blank, holes) + _told("rows that may show more than the scan", doubtful, holes)
    told = dict(blank | doubtful)
    holes -= {hole for hole in holes if hole[0] in told}
    lines += _history(state)
    lines += _failures(storage, state, holes)
    return "\n".join(lines)


def _headline(storage: Storage, state: State) -> str:
    if state.newest is None:
        return f"{storage.url}: not sealed; run its build command again to go on"
    pending = " (segments added since are not sealed)" if state.newest.extent < state.extent else ""
    rows = len(state.newest.rows())
    return f"{storage.url}: sealed, generation {state.newest.generation}, {rows:,} rows{pending}"


def _layer_lines(name: str, layer: Layer, state: State, done: Mapping[int, Commit]) -> list[str]:
    rows = sum(len(state.rows_of_shard(shard)) for shard in done) - sum(len(c.holes) for c in done.values())
    missing = state.shard_count - len(done)
    nbytes = sum(commit.size for commit in done.values())
    shape = " x ".join(map(str, layer.shape))
    lines = [
        f"layer {name}: {layer.dtype} [{shape}], {len(done):,} of {state.shard_count:,} shards written "
        f"({rows:,} rows, {nbytes / 1e6:,.1f} MB), {missing:,} not yet"
    ]
    if layer.coding is not None:
        packed = "two 4-bit values a byte, " if layer.coding.packed else ""
        lines.append(f"  reads as {' x '.join(map(str, layer.latent_shape))}: {packed}{layer.coding}")
    for soft in _distinct(done):
        lines.append(f"  made with {', '.join(f'{key} {value}' for key, value in soft.items())}")
    return lines


def _spacing(storage: Storage, state: State, holes: set[tuple[int, str]]) -> str:
    """Return the line on how large a pixel of the rows is, of those that are or will be there."""
    there = rows_of(state.segments, {row for row, _ in holes})
    return spacing_told(spacing_in_batches(storage, state.segments, there))


def _sources(storage: Storage, state: State, *names: str) -> Iterator[list[NDArray[Any]]]:
    """Yield columns of the tables of sources, batch after batch: a large store's are not held."""
    for segment in state.segments:
        with open_sources(storage, segment) as file:
            yield from batches(SourceTable, file, names)


def _history(state: State) -> list[str]:
    """Return what repairs and audits left in the manifest."""
    if state.newest is None:
        return []
    lines = [
        f"repaired: {entry['layer']}, shard {entry['shard']}, {len(entry['rows'])} rows"
        + ("" if entry["exact"] else f", within tolerance (relative error {entry['relative_error']:.1e})")
        for entry in state.newest.repaired
    ]
    for entry in state.newest.removed:
        lines.append(f"withdrawn: {entry['rows']:,} rows, in generation {entry['generation']}")
    for entry in state.newest.audits:
        verdict = "passed" if entry["passed"] else "FAILED"
        lines.append(
            f"audit of {entry['layer']}: {verdict}, {entry['rows']} rows, worst relative error "
            f"{entry['relative_error']:.1e} (tolerance {entry['tolerance']:g}), standardised cosine "
            f"{entry['cosine']:.4f} (shuffled rows {entry['control']:.4f})"
            + (f", keeps {100 * entry['kept']:.2f} % of the variance" if "kept" in entry else "")
        )
    return lines


def _told(title: str, rows: set[tuple[int, str]], holes: set[tuple[int, str]]) -> list[str]:
    """Return the lines about rows that a person should look at, kept or left out."""
    if not rows:
        return []
    left_out = len({row for row, _ in rows} & {row for row, _ in holes})
    return [f"{title}: {len(rows):,}, of these {left_out:,} left out", *blank_lines(sorted(rows))]


def _distinct(done: Mapping[int, Commit]) -> list[dict[str, object]]:
    seen = {json.dumps(commit.soft, sort_keys=True): commit.soft for commit in done.values()}
    return [seen[key] for key in sorted(seen)]


def _failures(storage: Storage, state: State, holes: set[tuple[int, str]]) -> list[str]:
    """Return the lines about sources and rows that could not be read, each with its reason."""
    reasons: dict[tuple[str, str], str] = {}
    # In the order of segments: a source that was mended since is read by a later one.
    for columns in _sources(storage, state, "dataset", "path", "error"):
        if not reasons and not (columns[2] != "").any():
            continue
        for dataset, path, error in zip(*(column.tolist() for column in columns), strict=True):
            reasons.pop((dataset, path), None)
            if error and error != WITHDRAWN:
                reasons[dataset, path] = error
    lines = [f"  {shown_name(path)}: {shown_name(error)}" for (_, path), error in reasons.items()]
    lines += [f"  row {row}: {shown_name(reason)}" for row, reason in sorted(holes) if reason != WITHDRAWN]
    if not lines:
        return ["failed: none"]
    more = [f"  ... and {len(lines) - _SHOWN_FAILURES:,} more"] if len(lines) > _SHOWN_FAILURES else []
    return [f"failed: {len(lines):,}", *lines[:_SHOWN_FAILURES], *more]
