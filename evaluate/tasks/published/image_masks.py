"""Read frames with masks: folders of images beside folders of masks, or a manifest.

| what                                                                   | how image and mask are paired        |
|------------------------------------------------------------------------|--------------------------------------|
| `images/` beside `masks/` (or `imagesTr/` beside `labelsTr/`, ...)     | by name: `a.png`, `a_mask.png`, ...  |
| the same within folders of splits, or `images/train/`, `images/test/`  | likewise                             |
| a manifest CSV with a column `mask`                                    | by line                              |
| a manifest without one, beside `images/` and `masks/`                  | by name                              |

A folder that holds a manifest is read by it, for it names patients and splits, and never by its folders alone. Other
lists beside the images are not read: one of splits is refused, one that names patients is told.

`mask_values.json` beside them names the values of masks: `{"1": "left ventricle", "2": "myocardium"}`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.columns import is_missing
from usjepa.cache.sources.layouts.base import Folder
from usjepa.cache.sources.layouts.registry import AUTO
from usjepa.cache.sources.layouts.tables import read_table
from usjepa.cache.sources.layouts.unread import patient_tables, refuse_unread
from usjepa.cache.sources.splits import split_named
from usjepa.cache.sources.tree import Tree
from usjepa.evaluate.tasks.base import Labelled, TaskFolder, checked
from usjepa.evaluate.tasks.measurements import manifest_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usjepa.cache.recipes.cache import CacheSettings

MASK, NAMES = "mask", "mask_values.json"
_IMAGES = re.compile(r"^(?:images?|imgs?|frames?)(tr|ts|train|test|val)?$", re.IGNORECASE)
_MASKS = re.compile(r"^(?:masks?|labels?|annotations?|segmentations?|seg|gt)(tr|ts|train|test|val)?$", re.IGNORECASE)
_SPLITS = {"tr": "train", "ts": "test"}
_AFFIX = re.compile(r"^(?:mask|seg|gt|label)[ _-]+|[ _-]+(?:mask|seg|segmentation|gt|label|anno|annotation)$", re.I)
_ALONE = "each counts as a group of its own."
_IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif"})


class ImagesAndMasks:
    """Images in one folder, their masks in another, paired by name; no labels, and a file is a group of its own."""

    name = "masks"
    wanted = "`images/` beside `masks/` and no manifest, in the folder or in `train/` and `test/` within it."

    def fits(self, path: Path) -> bool:
        """Return whether a folder holds such a pair of folders, and no manifest that says more of them."""
        return path.is_dir() and manifest_of(path) is None and bool(_pairs(path))

    def read(self, path: Path, settings: CacheSettings) -> list[TaskFolder]:
        """Return the task; raises UsageError where a mask has no image or two have one name, or for rival folders."""
        folder = Folder(Tree(path))
        if settings.layout == AUTO:
            refuse_unread(folder)
        files = [file for images, masks, split in _pairs(path) for file in _paired(path, images, _one(masks), split)]
        with_mask = sum(bool(file.masks) for file in files)
        if not with_mask:
            raise UsageError(f"{path}: no mask is called like an image, as `a.png` or `a_mask.png` for `a.png`.")
        told = patient_tables(folder)
        notes = (*told, f"{'That aside, no' if told else 'No'} file says which images are of one patient: {_ALONE}")
        return [
            TaskFolder(
                self.name, path.resolve().name, path.resolve(), tuple(files), notes, classified=False,
                mask_names=mask_names(path),
            )
        ]  # fmt: skip


def _pairs(path: Path) -> list[tuple[Path, list[Path], str]]:
    """Return the folders of images, those that may hold their masks, and the split that their place names."""
    found = []
    places = [(path, "")]
    places += [(one, split) for one in _folders(path) if (split := split_named(one.name) or "")]
    for place, split in places:
        named = [one for one in _folders(place) if _MASKS.match(one.name)]
        for images in _folders(place):
            if not _IMAGES.match(images.name):
                continue
            kind = _kind(_IMAGES, images.name)
            masks = [one for one in named if _kind(_MASKS, one.name) == kind and _holds_images(one)]
            if masks:
                found.append((images, masks, split or kind))
    return found


def _one(masks: list[Path]) -> Path:
    """Return the folder of masks; UsageError where several are called so: which one is meant is not for us to say."""
    if len(masks) > 1:
        both = " and ".join(f"{one.name}/" for one in masks)
        raise UsageError(
            f"{masks[0].parent}: both {both} hold images, and either could be the masks. Keep one of them there, or "
            "name each mask in a manifest.csv with the columns `path` and `mask`."
        )
    return masks[0]


def _holds_images(folder: Path) -> bool:
    return any(file.suffix.lower() in _IMAGE_ENDINGS for file in folder.rglob("*"))


def _kind(pattern: re.Pattern[str], name: str) -> str:
    match = pattern.match(name)
    kind = (match[1] or "").lower() if match else ""
    return _SPLITS.get(kind, kind)


def _folders(path: Path) -> list[Path]:
    return sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))


def _paired(root: Path, images: Path, masks: Path, split: str, whole: bool = True) -> list[Labelled]:
    """Return the images of a folder with their masks, each of which has one in a `whole` folder."""
    by_name: dict[str, Path] = {}
    for file in _files(masks):
        stem = _stem(file)
        if stem in by_name:
            raise UsageError(f"{masks}: {by_name[stem].name} and {file.name} are masks of one image. Keep one of them.")
        by_name[stem] = file
    made: dict[str, Labelled] = {}
    for image in _files(images):
        stem = _stem(image)
        if stem in made:
            raise UsageError(f"{images}: {made[stem].path} and {image.name} have one name, so masks are not clear.")
        mask = by_name.pop(stem, None)
        named = {} if mask is None else {MASK: checked(root, mask.relative_to(root).as_posix(), str(masks))}
        placed = _split_below(images, image) or split
        made[stem] = Labelled(checked(root, image.relative_to(root).as_posix(), str(images)), "", "", placed, named)
    if by_name and whole:
        lost = sorted(file.name for file in by_name.values())
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise UsageError(f"{masks}: {lost[0]}{more} have no image in {images}. Is the folder complete?")
    return list(made.values())


def _split_below(folder: Path, file: Path) -> str:
    """Return the split that the first folder below that of the images names, as in `images/test/a.png`; "" for none."""
    inner = file.relative_to(folder).parts[:-1]
    return (split_named(inner[0]) or "") if inner else ""


def _files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in _IMAGE_ENDINGS and not file.name.startswith(".") and file.is_file()
    )


def _stem(file: Path) -> str:
    return _AFFIX.sub("", file.stem.lower())


def manifest_masks(path: Path) -> dict[str, str]:
    """Return path of a frame -> path of its mask: by a manifest's column `mask`, or by name in folders beside it.

    Args:
        path: a CSV, or a folder that holds a manifest.

    Raises:
        UsageError: a mask does not exist, or lies outside of the folder; the line is named.
    """
    file = manifest_of(path)
    if file is None:
        return {}
    table = read_table(file)
    if "path" not in table.columns:
        return {}
    if MASK not in table.columns:
        pairs = [(images, masks[0], split) for images, masks, split in _pairs(file.parent) if len(masks) == 1]
        paired = [one for pair in pairs for one in _paired(file.parent, *pair, whole=False)]
        return {one.path: one.masks[MASK] for one in paired if one.masks}
    return {
        Path(line.cells["path"]).as_posix(): checked(file.parent, line.cells[MASK], f"{file}, line {line.number}, mask")
        for line in table.lines
        if not is_missing(line.cells.get(MASK, ""))
    }


def mask_names(path: Path) -> Mapping[int, str]:
    """Return value of a mask -> its name, from `mask_values.json` in the folder of a task; {} where there is none.

    Raises:
        UsageError: it holds something else.
    """
    file = (path if path.is_dir() else path.parent) / NAMES
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, OSError, RecursionError) as error:
        raise UsageError(f"{file}: can't be read as JSON ({error}).") from error
    wanted = f'{file}: give each value of masks its name, as {{"1": "left ventricle", "2": "myocardium"}}.'
    if not isinstance(content, dict) or not content:
        raise UsageError(wanted)
    found: dict[int, str] = {}
    for value, name in content.items():
        if not value.isdecimal() or not 0 <= int(value) <= 255 or not isinstance(name, str) or not name.strip():
            raise UsageError(f"{wanted} {value!r}: {name!r} is none.")
        found[int(value)] = name.strip()
    if len(set(found.values())) < len(found):
        raise UsageError(f"{file}: two values have one name.")
    return found
