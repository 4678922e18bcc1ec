"""Write rows of a store as one page that a browser opens from a disk.

The page holds all it shows: nothing is fetched, and its only script is the one whose hash its policy names. It is
written whole or not at all, and replaces no page but one of its own kind.
"""

from __future__ import annotations

import base64
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from usjepa.cache.errors import UsageError
from usjepa.cache.inspecting.as_it_was import as_they_were
from usjepa.cache.inspecting.cards import cards_of
from usjepa.cache.inspecting.choosing import LOOKED_AT, PARTS, choose
from usjepa.cache.inspecting.examining import teacher_of
from usjepa.cache.inspecting.flags import FAR_OUT, LEAST_ROWS, NEIGHBOURS
from usjepa.cache.inspecting.pictures import EDGE, frame_uri
from usjepa.cache.inspecting.view import View, concerns
from usjepa.cache.pages.environment import Section, open_templates
from usjepa.cache.perceptual import BITS, NEAR_BITS
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.durable import check_output, write_durably
from usjepa.cache.store.origins.spacing import spacing_text
from usjepa.cache.terminal.streams import shown_name

if TYPE_CHECKING:
    from jinja2 import Environment

    from usjepa.cache.reading.store import Store
    from usjepa.cache.recipes.cache import CacheSettings

PAGE = "index.html"
MAKER = "usjepa-cache inspect"
LIMIT_NBYTES = 30_000_000
"""Bytes of a page at most: a browser opens as many within seconds."""
_FRAME_NBYTES = 200_000
"""Bytes that the page needs beside its rows, at most."""
_AXES = 64
_SECTIONS = (Section("s0", "What was found"), Section("s1", "Rows"), Section("s2", "How to read it"))


def write_page(
    store: str,
    folder: str,
    rows: int = 200,
    teacher: str | None = None,
    dataset: str | None = None,
    source: str | None = None,
    settings: CacheSettings | None = None,
) -> list[str]:
    """Write FOLDER/index.html: rows of a store, those that need a look first, the rest drawn evenly.

    Returns lines that say what was written.

    Args:
        store: folder or URL; an unsealed one may be looked at too.
        folder: of the page; made where it is not there.
        rows: how many rows to show at most.
        teacher: whose latents to show; none: the store's only teacher.
        dataset: show rows of this one; none: of all.
        source: where the sources lie; the frame as it was is shown beside what is kept. None: it is not.
        settings: of the recipe that the store was built with; needed with `source`.

    Raises:
        UsageError: the store has no rows yet, or none of that dataset, or no such latents, or another page lies there.
        DamageError: stored bytes are not those that were built.
        WriteError: the page can't be written.
    """
    opened = open_store(store, allow_partial=True)
    place = Path(folder) / PAGE
    _refuse_foreign(place, opened)
    if not len(opened):
        raise UsageError(f"{store}: no shard is finished yet, so there is nothing to show.")
    whose = teacher_of(opened, teacher)
    chosen = choose(opened, rows, whose, dataset)
    axes = None if chosen.moments is None else chosen.moments.axes(_AXES)
    was = {}
    if source is not None and settings is not None:
        numbers = sorted(row.number for row in chosen.rows)
        was = {number: frame_uri(frame) for number, frame in as_they_were(opened, numbers, source, settings)}
    made = cards_of(opened, chosen.rows, whose, axes, was, LIMIT_NBYTES - _FRAME_NBYTES)
    cut = _cut(made.asked, len(made.cards))
    page = render(View(opened, chosen, made, whose, axes, source is not None, dataset, cut)).encode()
    write_durably(place.absolute(), page)
    shown = f"{len(made.cards):,} of {chosen.there:,} rows, {len(page) / 1e6:.1f} MB"
    return [f"{place}: {shown}", *cut, spacing_text(opened.spacing)]


def _cut(asked: int, shown: int) -> list[str]:
    if shown == asked:
        return []
    return [f"{asked:,} rows were chosen; a page of {LIMIT_NBYTES / 1e6:g} MB has room for {shown:,} of them."]


def _refuse_foreign(place: Path, store: Store) -> None:
    """Raise UsageError where a page would replace what is none of ours, or lie within the store."""
    check_output(place)
    folder, where = Path(os.path.realpath(place.parent)), Path(os.path.realpath(store.location))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--html {place.parent}: a file lies there. Give the name of a folder.")
    if where.is_dir() and where in (folder, *folder.parents):
        raise UsageError(f"--html {place.parent}: that is within the store. Give a folder of its own.")
    if place.exists() and not _is_ours(place):
        raise UsageError(
            f"--html {place.parent}: holds {PAGE} of something else, which a page would replace. Give a new folder, or "
            "that of an earlier page."
        )


def _is_ours(place: Path) -> bool:
    with place.open("rb") as file:
        return f'<meta name="generator" content="{MAKER}">'.encode() in file.read(4096)


@cache
def _templates() -> Environment:
    return open_templates("usjepa.cache.inspecting", {"name": shown_name, "concerns": concerns})


def render(view: View) -> str:
    """Return the page as HTML text: the same rows give the same bytes."""
    # Our own text, without a value in it; a page runs no other.
    script = Markup(_templates().get_template("store.js").render())
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _templates()
        .get_template("store.html")
        .render(
            view=view,
            script=script,
            script_hash=f"sha256-{digest}",
            maker=MAKER,
            sections=_SECTIONS,
            edge=EDGE,
            bits=BITS,
            near_bits=NEAR_BITS,
            parts=PARTS,
            looked_at=LOOKED_AT,
            outlier_neighbours=NEIGHBOURS,
            far_out=FAR_OUT,
            least_rows=LEAST_ROWS,
        )
    )
