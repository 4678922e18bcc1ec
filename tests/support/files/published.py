"""Tiny tasks in the layouts that datasets are published in, with frames that are not the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

EDGE = 48


def write_image(path: Path, seed: int, colour: bool = False) -> None:
    """Write a frame of smooth random echo; equal seeds give equal frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    frame = rng.integers(60, 255, (EDGE, EDGE + seed % 3, 3) if colour else (EDGE, EDGE + seed % 3)).astype(np.uint8)
    Image.fromarray(frame).save(path)


def write_mask(path: Path, values: Sequence[int], seed: int) -> None:
    """Write a mask of rectangles of the values on 0, as large as the frame of that seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((EDGE, EDGE + seed % 3), np.uint8)
    for i, value in enumerate(values):
        top = 4 + i * (EDGE - 8) // len(values)
        mask[top : top + (EDGE - 8) // len(values), 8 + seed % 5 : 36] = value
    Image.fromarray(mask).save(path)


def write_ultrabench(
    folder: Path,
    labels: Sequence[int | None],
    splits: Mapping[str, Sequence[int]],
    groups: Mapping[str, Sequence[object]] | None = None,
    masks: Mapping[str, Sequence[int]] | None = None,
    ending: str = "png",
    colour: bool = False,
    scan_ending: str = "png",
) -> None:
    """Write a task as UltraBench does.

    Args:
        folder: `<name>_v1.0.1`.
        labels: of the images 0..n-1; None for none.
        splits: name of a JSON file -> images in it.
        groups: key -> its value for every image.
        masks: key -> values in the mask.
        ending: of the images.
        colour: write three channels.
        scan_ending: of the masks of the scan; GBCU's are JPEG.
    """
    for i in range(len(labels)):
        write_image(folder / "images" / f"{i}.{ending}", i, colour)
        write_mask(folder / "masks" / "scan" / f"{i}.{scan_ending}", [1], i)
        for key, values in (masks or {}).items():
            write_mask(folder / "masks" / key / f"{i}.png", values, i)

    def item(i: int) -> dict[str, Any]:
        made: dict[str, Any] = {"image": f"images/{i}.{ending}", "scan_mask": f"masks/scan/{i}.{scan_ending}"}
        made |= {} if labels[i] is None else {"label": labels[i]}
        made |= {key: values[i] for key, values in (groups or {}).items()}
        return made | {key: f"masks/{key}/{i}.png" for key in masks or {}}

    for name, images in splits.items():
        (folder / f"{name}.json").write_text(json.dumps([item(i) for i in images], indent=4))
    (folder / "version.txt").write_text("1.0.1")


def write_busbra(folder: Path, cases: Sequence[tuple[int, str]]) -> None:
    """Write BUS-BRA: two images a case, with masks."""
    lines = ["ID,Case,Histology,Pathology,BIRADS,Device"]
    for n, (case, pathology) in enumerate(cases):
        for m, side in enumerate("lr"):
            name = f"{case:04d}-{side}"
            write_image(folder / "Images" / f"bus_{name}.png", 2 * n + m)
            write_mask(folder / "Masks" / f"mask_{name}.png", [255], 2 * n + m)
            lines.append(f"bus_{name},{case},,{pathology},3,GE")
    (folder / "bus_data.csv").write_text("\n".join(lines) + "\n")


def write_tn5000(folder: Path, images: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Write TN5000: (split, names of the objects) of every image."""
    listed: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for n, (split, names) in enumerate(images):
        write_image(folder / "JPEGImages" / f"{n:06d}.jpg", n)
        objects = "".join(f"<object><name>{name}</name><bndbox/></object>" for name in names)
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations" / f"{n:06d}.xml").write_text(f"<annotation>{objects}</annotation>")
        listed[split].append(f"{n:06d}")
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for split, ids in listed.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids) + "\n")
