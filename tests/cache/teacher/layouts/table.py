"""Print the table of docs/reference/teachers.md: how near teachers come to their authors' models.

`test_table.py` sees to it that the page has every row and every preset, and no empty cell.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tests.cache.teacher import test_examples, test_maps
from tests.cache.teacher.layouts import test_libraries
from tests.cache.teacher.layouts.test_equality import PAIRS
from tests.cache.teacher.names import test_folders, test_open_clip, test_transformers

if TYPE_CHECKING:
    from collections.abc import Callable

ROOM = "tests/cache/teacher"
PRESETS = {
    "mae": ["mae-b", "mae-l", "mae-h", "usf-mae", "ultrafedfm"],
    "urfm": ["urfm-b", "urfm-l", "urfm-h"],
    "tinyusfm": ["tinyusfm"],
    "usfm": ["usfm"],
    "i-jepa": ["ijepa-h14", "ijepa-h16-448", "ijepa-g16"],
    "ultradino": ["ultradino-s", "ultradino-b", "ultradino-l"],
    "fetalclip": ["fetalclip"],
    "biomedclip": ["biomedclip"],
    "openai's clip": ["clip-b16", "clip-l14"],
    "dinov2": ["dinov2-s", "dinov2-b", "dinov2-l"],
    "dinov2, registers": ["dinov2-reg-s", "dinov2-reg-b", "dinov2-reg-l", "dinov2-reg-g"],
    "dinov2, swiglu": ["dinov2-g"],
    "dinov3": ["dinov3-s", "dinov3-b", "dinov3-l", "dinov3-l-sat"],
    "sam, medsam": ["sam-b", "medsam"],
    "ultrasam (mmdet)": ["ultrasam"],
    "transformers: DINOv2": ["rad-dino"],
    "transformers: SigLIP": ["medsiglip"],
}
"""Row -> presets whose files are of its kind."""
Pair = tuple[torch.Tensor, torch.Tensor]
"""Tokens of the teacher, and of its authors' model."""


def rows() -> dict[str, tuple[Callable[[Path], Pair], str, str]]:
    """Return name -> (what compares, what `--teacher` is given, test)."""
    found: dict[str, tuple[Callable[[Path], Pair], str, str]] = {}
    for case, pair in PAIRS.items():
        found[case] = pair, "FILE, cache.teacher.args", f"{ROOM}/layouts/test_equality.py"
    for case in test_transformers.CASES:
        compare = partial(test_transformers.compared, case)
        found[f"transformers: {case}"] = compare, "FOLDER, hf-hub:ORG/NAME", f"{ROOM}/names/test_transformers.py"
    for case, pair in test_transformers.MORE.items():
        found[f"transformers: {case}"] = pair, "FOLDER, hf-hub:ORG/NAME", f"{ROOM}/names/test_transformers.py"
    for case, pair in test_libraries.PAIRS.items():
        found[case] = pair, "FILE, cache.teacher.args", f"{ROOM}/layouts/test_libraries.py"
    found["timm: a folder"] = test_folders.compared_timm, "FOLDER, NAME.TAG", f"{ROOM}/names/test_folders.py"
    for case, pair in test_open_clip.PAIRS.items():
        flags = "FILE, cache.teacher.args" if case.endswith("file") else "FOLDER, hf-hub:ORG/NAME"
        found[f"open_clip: {case}"] = pair, flags, f"{ROOM}/names/test_open_clip.py"
    found["open_clip: a folder"] = test_folders.compared_open_clip, "FOLDER", f"{ROOM}/names/test_folders.py"
    for case in test_maps.MODELS:
        compare = partial(test_maps.compared, case)
        found[f"maps: {case}"] = compare, "FILE, cache.teacher.architecture, block", f"{ROOM}/test_maps.py"
    found["v-jepa 2"] = test_examples.v_jepa_2, "vjepa2_teacher:vjepa2", f"{ROOM}/test_examples.py"
    found["echocare (monai)"] = test_examples.echocare, "echocare_teacher:echocare", f"{ROOM}/test_examples.py"
    return {name: (pair, _flags(name, flags), test) for name, (pair, flags, test) in found.items()}


def _flags(name: str, flags: str) -> str:
    if name not in PRESETS:
        return f"`{flags}`"
    first, *others = PRESETS[name]
    return f"`{first}=FILE`" + (f"; also {', '.join(f'`{other}`' for other in others)}" if others else "")


def main() -> None:
    """Print the table as Markdown."""
    print("| teacher | `--teacher` | largest difference | smallest cosine | test |\n|---|---|---|---|---|")
    for name, (pair, flags, test) in rows().items():
        with tempfile.TemporaryDirectory() as folder:
            found, wanted = pair(Path(folder))
        most = float((found - wanted).abs().max())
        cosine = float(torch.nn.functional.cosine_similarity(found, wanted, dim=-1).min())
        print(f"| {name} | {flags} | {most:.0e} | {min(cosine, 1.0):.6f} | `{test}` |")


if __name__ == "__main__":
    main()
