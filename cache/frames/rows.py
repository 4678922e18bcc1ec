"""Cut stored rows from their sources: frame -> prepared frame -> views."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from usjepa.cache.errors import BlankError, SourceError, TextError, WholeFrameError
from usjepa.cache.frames.blank import why_blank
from usjepa.cache.frames.cells import pack_cells, packed_nbytes
from usjepa.cache.frames.clips import SourceRef, require_size
from usjepa.cache.frames.prepare import prepare
from usjepa.cache.frames.views import View, apply_view
from usjepa.cache.sources.base import PHANTOM
from usjepa.cache.sources.files.stamps import name_of
from usjepa.cache.terminal.streams import shown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.frames.clips import ClipRegions
    from usjepa.cache.frames.regions import Region
    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.store.tables import RowTable, SourceTable


_TEXT, _WHOLE = "marks that look like text in its region", "taken whole for the scan"


class RowSpec(NamedTuple):
    """One row: a frame of a source, and the view that is cut from it."""

    source: int
    """Index into the block's sources."""
    frame: int
    view: View


@dataclass(frozen=True)
class RowBlock:
    """Consecutive rows and the sources that they show: all that a process needs in order to cut them."""

    first: int
    """Number of the first row in the store."""
    sources: Sequence[SourceRef]
    rows: Sequence[RowSpec]

    @classmethod
    def of(cls, sources: SourceTable, rows: RowTable, first_row: int, numbers: range) -> RowBlock:
        """Return the rows `numbers` of a segment with these tables, whose first row is `first_row`."""
        taken = rows.take(slice(numbers.start - first_row, numbers.stop - first_row))
        used, source = np.unique(taken.source, return_inverse=True)
        few = sources.take(used)
        refs = [SourceRef(*columns) for columns in _lines(few, SourceRef._fields)]
        views = [View(*columns) for columns in _lines(taken, View._fields)]
        return cls(numbers.start, refs, list(map(RowSpec, source.tolist(), taken.frame.tolist(), views)))

    def part(self, start: int, stop: int) -> RowBlock:
        """Return the rows at places from `start` to before `stop`, with the sources that they show."""
        rows = self.rows[start:stop]
        place = {source: i for i, source in enumerate(sorted({row.source for row in rows}))}
        return RowBlock(
            self.first + start,
            [self.sources[source] for source in place],
            [row._replace(source=place[row.source]) for row in rows],
        )

    def to_json(self) -> dict[str, Any]:
        """Return the block for another process."""
        return {"first": self.first, "sources": self.sources, "rows": self.rows}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RowBlock:
        """Return the block that `to_json` described."""
        sources = [SourceRef(*source) for source in data["sources"]]
        rows = [RowSpec(source, frame, View(*view)) for source, frame, view in data["rows"]]
        return cls(data["first"], sources, rows)


def _lines(table: SourceTable | RowTable, names: Sequence[str]) -> Iterable[tuple[Any, ...]]:
    """Return some columns of a table line by line, as plain Python values."""
    return zip(*(table.columns()[name].tolist() for name in names), strict=True)


@dataclass(frozen=True)
class PixelShard:
    """Rows as the views show them."""

    pixels: NDArray[np.uint8]
    """[n, C, S, S]"""
    regions: NDArray[np.uint8]
    """[n, bytes of packed cells]"""
    holes: list[tuple[int, str]]
    """Row number, and why the row is missing."""
    blank: list[tuple[int, str]] = field(default_factory=list)
    """Row number, which frame it shows and why that is blank; where the recipe skips them, they are holes too."""
    doubtful: list[tuple[int, str]] = field(default_factory=list)
    """Row number, which frame it shows and what its region may show beside the scan."""

    @classmethod
    def joined(cls, parts: Sequence[PixelShard]) -> PixelShard:
        """Return the rows of parts that follow each other."""
        if len(parts) == 1:
            return parts[0]
        pixels, regions = (
            np.concatenate(arrays) for arrays in zip(*((p.pixels, p.regions) for p in parts), strict=True)
        )
        told = ([line for part in parts for line in getattr(part, name)] for name in ("holes", "blank", "doubtful"))
        return cls(pixels, regions, *told)

    def exists(self, first_row: int) -> NDArray[np.bool_]:
        """Return [n], false at holes; `first_row` is the number of the first row."""
        found = np.ones(len(self.pixels), np.bool_)
        found[[row - first_row for row, _ in self.holes]] = False
        return found


class Frames(Protocol):
    """Gives frames of sources; a `SourceReader` does."""

    def frames(self, path: str, reader: str, wanted: Sequence[int], content_hash: str) -> Iterator[NDArray[np.uint8]]:
        """Yield the wanted frames of a source; see `SourceReader.frames`."""
        ...


def cut_rows(
    block: RowBlock,
    reader: Frames,
    settings: CacheSettings,
    skip_errors: bool,
    before_frame: Callable[[str], None],
    regions_of: ClipRegions,
    bad: Mapping[str, str] = MappingProxyType({}),
) -> PixelShard:
    """Return the rows of a block.

    Args:
        block: what to cut.
        reader: of the folder that the sources lie in.
        settings: size, preprocessing, de-identification, and what becomes of blank frames.
        skip_errors: an unreadable source turns its rows into holes with the reason instead of ending the build.
        before_frame: called with a source's path before it is opened and after each decoded frame; may raise to stop.
        regions_of: finds regions, and remembers them between blocks.
        bad: path -> reason of sources that are known to be unreadable, not to be tried again.

    Raises:
        SourceError: a source can't be read, or is not the file that was scanned.
        BlankError: a frame shows no echo, and `on_blank` is "stop".
        TextError: a region keeps marks that look like text, and `preprocess.text` is "stop".
        WholeFrameError: no region was found in a frame, and `preprocess.whole` is "stop".
    """
    size, channels = settings.image_size, 1 if settings.preprocess.grey else 3
    pixels = np.zeros((len(block.rows), channels, size, size), np.uint8)
    regions = np.zeros((len(block.rows), packed_nbytes(size)), np.uint8)
    holes: list[tuple[int, str]] = []
    blank: list[tuple[int, str]] = []
    doubtful: list[tuple[int, str]] = []
    for number, run in itertools.groupby(range(len(block.rows)), key=lambda place: block.rows[place].source):
        places, source = list(run), block.sources[number]
        try:
            if source.path in bad:
                raise SourceError(bad[source.path])
            before_frame(source.path)
            rows = [(place, block.rows[place]) for place in places]
            for place, image, region, frame in _cut(source, rows, reader, settings, before_frame, regions_of):
                row, shown = block.first + place, f"{shown_name(source.path)}, frame {block.rows[place].frame}"
                if frame.blank:
                    blank.append((row, f"{shown}: {frame.blank}"))
                elif frame.doubt:
                    doubtful.append((row, f"{shown}: {frame.doubt}"))
                if frame.left_out:
                    holes.append((row, f"{shown}: {frame.left_out}"))
                else:
                    pixels[place], regions[place] = image, region
        except SourceError as error:
            if not skip_errors:
                raise
            # The whole source is left out of this shard: its frames are not to be trusted in part.
            numbers = [block.first + place for place in places]
            holes = [(row, reason) for row, reason in holes if row not in numbers]
            holes += [(row, str(error)) for row in numbers]
    return PixelShard(pixels, regions, holes, blank, doubtful)


class _Remarks(NamedTuple):
    """What is told of a frame; empty texts where there is nothing to tell."""

    blank: str
    """Why it shows no echo."""
    doubt: str
    """What its region may show beside the scan."""
    left_out: str
    """Why its rows are holes."""


def _cut(
    source: SourceRef,
    rows: Sequence[tuple[int, RowSpec]],
    reader: Frames,
    settings: CacheSettings,
    before_frame: Callable[[str], None],
    regions_of: ClipRegions,
) -> Iterable[tuple[int, NDArray[np.uint8], NDArray[np.uint8], _Remarks]]:
    """Yield (place, pixels [C, S, S], packed region, remarks) of rows of one source, frame after frame."""
    wanted = sorted({row.frame for _, row in rows})
    shared = regions_of.of(source, before_frame)
    decoded = reader.frames(source.path, source.reader, wanted, source.content_hash)
    for number, frame in zip(wanted, decoded, strict=True):
        before_frame(source.path)
        require_size(source, number, frame)
        region = shared or regions_of.alone(frame)
        prepared = prepare(frame, settings.preprocess, region)
        remarks = _remarks(source, number, why_blank(frame, region.mask), region, settings)
        for place, row in rows:
            if row.frame == number:
                image, cells = apply_view(prepared, row.view, settings.image_size, settings.preprocess.deidentify)
                yield place, image, pack_cells(cells), remarks


def _remarks(source: SourceRef, number: int, blank: str, region: Region, settings: CacheSettings) -> _Remarks:
    """Return what is told of a frame and becomes of its rows; BlankError, TextError or WholeFrameError to stop."""
    where, rules = f"{shown_name(source.path)}: frame {number}", settings.preprocess
    if blank and settings.on_blank == "stop":
        raise BlankError(
            f"{where} shows no echo ({blank}). Remove the file if it is no ultrasound image, or leave such frames out "
            "with --set cache.on_blank=skip."
        )
    text = _TEXT if rules.deidentify and region.text else ""
    whole = _WHOLE if rules.deidentify and _hides_what_it_is(source, blank, region) else ""
    if blank and settings.on_blank == "skip":
        return _Remarks(blank, text or whole, f"{blank}: left out, for it shows no echo")
    if text and rules.text == "stop":
        raise TextError(
            f"{where} has {text}, which must not be stored unseen. Look at it; then give its region (column `region` "
            "of a manifest), or say what becomes of such frames: --set cache.preprocess.text=skip leaves them out, "
            "=inpaint paints the marks over, =keep stores them as they are."
        )
    if text and rules.text == "skip":
        return _Remarks(blank, text, f"{text}: left out")
    if whole and rules.whole == "stop":
        raise WholeFrameError(
            f"{where} is {whole}, for no region was found in it: what else its screen shows, such as a name, would be "
            "stored too. Look at it; if it shows nothing but the scan, --set cache.preprocess.whole=keep stores such "
            "frames. Else give its region (column `region` of a manifest), or leave such frames out with "
            "--set cache.preprocess.whole=skip."
        )
    return _Remarks(blank, text or whole, f"{whole}: left out" if whole and rules.whole == "skip" else "")


def _hides_what_it_is(source: SourceRef, blank: str, region: Region) -> bool:
    """Return whether a frame was taken whole and may show more than echo: black ones and the phantom's do not."""
    return region.is_whole and not (blank and region.origin == "dark") and name_of(source.reader) != PHANTOM
