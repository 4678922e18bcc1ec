"""Print the table of docs/reference/teachers.md: how near teachers come to their authors' models."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tests.cache.teacher.layouts.test_equality import PAIRS
from tests.cache.teacher.names import test_transformers

if TYPE_CHECKING:
    from collections.abc import Callable

HERE, THERE = "tests/cache/teacher/layouts/test_equality.py", "tests/cache/teacher/names/test_transformers.py"
FLAGS = {"tinyusfm": "tinyusfm=FILE", "urfm": "urfm-b=FILE", "usfm": "usfm=FILE", "ultradino": "ultradino-b=FILE",
         "fetalclip": "fetalclip=FILE", "biomedclip": "biomedclip=FILE", "mae": "mae-b=FILE",
         "i-jepa": "ijepa-h14=FILE",
         "dinov2": "dinov2-b=FILE", "dinov2, registers": "dinov2-reg-b=FILE", "dinov2, swiglu": "dinov2-g=FILE",
         "openai's clip": "clip-b16=FILE", "dinov3": "dinov3-b=FILE", "sam, medsam": "medsam=FILE",
         "ultrasam (mmdet)": "ultrasam=FILE"}  # fmt: skip


def rows() -> dict[str, tuple[Callable[[Path], tuple[torch.Tensor, torch.Tensor]], str, str]]:
    """Return name -> (what compares, what `--teacher` is given, test)."""
    here = {case: (pair, FLAGS.get(case, "FILE, cache.teacher.args"), HERE) for case, pair in PAIRS.items()}
    folders = {
        f"transformers: {case}": (partial(test_transformers.compared, case), "FOLDER", THERE)
        for case in test_transformers.CASES
    }
    return {**here, **folders}


def main() -> None:
    """Print the table as Markdown."""
    print("| layout | `--teacher` | largest difference | smallest cosine | test |\n|---|---|---|---|---|")
    for name, (pair, flags, test) in rows().items():
        with tempfile.TemporaryDirectory() as folder:
            found, wanted = pair(Path(folder))
        most = float((found - wanted).abs().max())
        cosine = float(torch.nn.functional.cosine_similarity(found, wanted, dim=-1).min())
        print(f"| {name} | `{flags}` | {most:.0e} | {min(cosine, 1.0):.6f} | `{test}` |")


if __name__ == "__main__":
    main()
