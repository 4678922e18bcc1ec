"""Print all presets as a table, or one with everything that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.teacher.names.presets import PRESETS

if TYPE_CHECKING:
    from usjepa.cache.teacher.names.preset import Preset


def preset_lines() -> list[str]:
    """Return the presets as lines of a table for a terminal."""
    rows = [("preset", "what it is", "architecture", "input", "licence")]
    rows += [(name, p.title, p.architecture, f"{p.size} px", p.licence) for name, p in PRESETS.items()]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def one_preset(name: str) -> list[str]:
    """Return all that is known of a preset, a line each; UsageError where there is none of that name."""
    if name not in PRESETS:
        raise UsageError(f"{name}: no such preset. There are: {', '.join(PRESETS)}.")
    facts = _facts(name, PRESETS[name])
    width = max(map(len, facts))
    return [f"{label.ljust(width)}  {text}" for label, text in facts.items()]


def preset_table() -> str:
    """Return the presets as a Markdown table, for the documentation."""
    head = "| preset | architecture | input | mean | std | not square | layout |\n|---|---|---|---|---|---|---|\n"
    more = "| preset | paper | licence | weights | evaluation sets seen | to know |\n|---|---|---|---|---|---|\n"
    for name, p in PRESETS.items():
        stated = f"`{p.architecture}`" + "".join(f", {key}={value}" for key, value in p.args.items())
        head += f"| `{name}` | {stated} | {_size(p)} | {_numbers(p.input[0])} | {_numbers(p.input[1])} | {p.resize} | "
        head += f"{p.layout} |\n"
        more += f"| `{name}` | {p.paper} | {p.licence} | {p.where} | {p.seen} | {p.note or '-'} |\n"
    return f"{head}\n{more}"


def _facts(name: str, p: Preset) -> dict[str, str]:
    args = ", ".join(f"{key}={value}" for key, value in p.args.items())
    return {
        "preset": name,
        "what it is": p.title,
        "architecture": p.architecture + (f" with {args}" if args else ""),
        "input": f"{_size(p)}; mean {_numbers(p.input[0])}; std {_numbers(p.input[1])}",
        "not square": f"{p.resize} by its authors; a store squashes every frame",
        "positions": f"resampled: {p.positions or 'antialiased, as timm does'}",
        "layout": p.layout,
        "paper": p.paper,
        "licence": p.licence,
        "weights": p.where,
        "seen": p.seen,
        **({"to know": p.note} if p.note else {}),
        "use it": f"--teacher {name}=FILE, or --encoder {name}=FILE",
    }


def _size(p: Preset) -> str:
    channels = len(p.input[0])
    return f"{p.size} x {p.size}, {channels} {'channel' if channels == 1 else 'channels'}"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
