"""Refuse a target that is neither empty nor a part of that very copy.

The mark `unfinished/copy.json` is written first and removed last. While it stands, nothing else writes there, and the
same command goes on: a shard with its commit record is whole, as each was published before its record. A copy that
another program made (`cp`, `rsync`, `tar`) has no mark; with `--resume` it gets one that says that none of its files
is trusted, and every row that lies there is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from usjepa.cache.errors import DamageError, UsageError
from usjepa.cache.identity import Json, canonical, parse_json
from usjepa.cache.store.generations import NEWEST, Manifest
from usjepa.cache.store.state import UNFINISHED, job_name, read_layer, segment_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usjepa.cache.copying.selection import Selection
    from usjepa.cache.storage.protocol import Storage

MARK = job_name("copy")
T = TypeVar("T")
_BEFORE_REMOVAL = " A copy from before rows were withdrawn may hold them: remove it."


@dataclass(frozen=True)
class Order:
    """What is copied where."""

    source: Storage
    target: Storage
    selection: Selection
    manifest: Manifest
    """The generation that is copied, with the chosen layers alone."""
    kept: tuple[Manifest, ...]
    """Earlier generations of the source, with the chosen layers alone, ascending."""

    def mark(self, trusted: bool) -> bytes:
        """Return the mark of this copy while it has not ended."""
        body: dict[str, Json] = {"source": self.source.url, "selection": self.selection.to_json(), "trusted": trusted}
        if self.selection.numbers_anew:
            body["digest"] = self.manifest.digest
        return canonical(body) + b"\n"


def begin(order: Order, resume: bool) -> bool:
    """Mark the target as an unfinished copy; return whether what has a commit record there is whole.

    Raises:
        UsageError: something else lies there, or a copy that only `resume` may touch.
    """
    target = order.target
    trusted = _trust(order, resume)
    _refuse_strangers(order)
    target.publish(MARK, order.mark(trusted))
    return trusted


def _trust(order: Order, resume: bool) -> bool:
    target = order.target
    try:
        mark = parse_json(target.read(MARK), f"{target.url}/{MARK}")
    except FileNotFoundError:
        mark = None
    if mark is not None:
        wanted = parse_json(order.mark(bool(mark.get("trusted"))), MARK)
        # Storages have many names: where the source lies is told, and what it holds is compared.
        differ = [key for key in ("selection", "digest") if mark.get(key) != wanted.get(key)]
        if differ == ["digest"] and mark.get("source") == order.source.url:
            raise UsageError(
                f"{target.url}: holds an unfinished copy of {order.source.url}, which has changed since. What was "
                "chosen then can't be finished: remove DST and copy again."
            )
        if differ:
            raise UsageError(
                f"{target.url}: holds an unfinished copy of {mark.get('source')} with another {' and '.join(differ)}. "
                "Finish that one with the command that began it, or give another DST."
            )
        return bool(mark.get("trusted"))
    if not target.names("") and not set(target.folders("")) - {"claims", UNFINISHED}:
        return True
    if not resume:
        raise UsageError(
            f"{target.url}: is not empty. Where a copy of {order.source.url} was cut, or the source grew since, "
            "`--resume` checks every row that is there and copies the others; else give a new folder."
        )
    if order.selection.numbers_anew:
        raise UsageError(f"{target.url}: --resume finishes a copy of whole layers, without --datasets and --rows.")
    return False


def _refuse_strangers(order: Order) -> None:
    """Raise UsageError where the target holds a segment, layer or generation that is not the source's."""
    if order.selection.numbers_anew:
        return  # its mark names the very generation
    target, generations = order.target, (*order.kept, order.manifest)
    for name in (*order.manifest.layers, *_other_layers(order)):
        ours = order.manifest.layers.get(name)
        found = _or_cut(partial(read_layer, target, name))
        if found is not None and (ours is None or found.digest != ours.digest):
            raise _stranger(order, f"layer {name}")
    known = {segment.folder: set[bytes]() for one in generations for segment in one.segments}
    for one in generations:
        for segment in one.segments:
            known[segment.folder].add(segment_json(segment))
    for folder in target.folders("segments"):
        name = f"segments/{folder}/segment.json"
        data = target.read(name) if target.size(name) is not None else b""
        whole = _or_cut(partial(parse_json, data, name))
        if whole is not None and data not in known.get(f"segments/{folder}", ()):
            raise _stranger(order, f"segment {folder}")
    newest = _or_cut(lambda: Manifest.from_bytes(target.read(NEWEST), NEWEST))
    if newest is not None and newest.digest not in {one.digest for one in generations} and not _is_older(order, newest):
        raise _stranger(order, f"generation {newest.generation}")


def _is_older(order: Order, newest: Manifest) -> bool:
    """Return whether a generation of the target can be one that the source had and that `gc` took away.

    Every row is checked against the source's own, so its segments, layers and histories tell enough. One from before a
    removal is none: its segments have other tables.
    """
    ours = order.manifest
    if newest.generation >= ours.generation or newest.generation in {one.generation for one in order.kept}:
        return False
    return (
        newest.segments == ours.segments[: len(newest.segments)]
        and all(name in ours.layers and ours.layers[name].digest == one.digest for name, one in newest.layers.items())
        and newest.repaired == ours.repaired[: len(newest.repaired)]
        and newest.audits == ours.audits[: len(newest.audits)]
        and newest.removed == ours.removed[: len(newest.removed)]
    )


def _other_layers(order: Order) -> Sequence[str]:
    """Return the layers of teachers that lie at the target and are not copied."""
    found = [f"{kind}/{name}" for kind in ("latents", "scales") for name in order.target.folders(kind)]
    return [name for name in found if name not in order.manifest.layers]


def _or_cut(read: Callable[[], T]) -> T | None:
    """Return what is read; None where it is missing, or cut."""
    try:
        return read()
    except (FileNotFoundError, DamageError):
        return None


def _stranger(order: Order, what: str) -> UsageError:
    return UsageError(
        f"{order.target.url}: its {what} is not of {order.source.url}, so it is no copy of it (or has lived on by "
        f"itself). Nothing is written there: give another DST.{_BEFORE_REMOVAL * bool(order.manifest.removed)}"
    )


def end(order: Order) -> None:
    """Remove the mark: the copy is whole."""
    order.target.delete(MARK)
