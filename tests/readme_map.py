"""The README's file map, made from the first sentence of each module: `python -m tests.readme_map` writes it anew."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("cache", "cache/sources", "train", "evaluate")
_MAP = re.compile(r"(?<=## Files\n\n).*?(?=\n`pipelines.yaml` recipes)", re.DOTALL)


def file_map() -> str:
    """Return the map as Markdown, a line a module."""
    parts = []
    for folder in FOLDERS:
        files = [path for path in sorted((ROOT / folder).glob("*.py")) if path.name != "__init__.py"]
        lines = [f"| `{path.name}` | {_first_sentence(path)} |" for path in files]
        parts.append("\n".join([f"**`{folder}/`**", "", "| file | what it holds |", "|---|---|", *lines, ""]))
    return "\n".join(parts)


def _first_sentence(path: Path) -> str:
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=[a-z0-9)`\"])\. ", text)[0].rstrip(".")
    return sentence.replace("|", "\\|")


def with_map(readme: str) -> str:
    """Return the README with its map made anew."""
    return _MAP.sub(lambda _: file_map(), readme)


if __name__ == "__main__":
    (ROOT / "README.md").write_text(with_map((ROOT / "README.md").read_text()))
