"""Damage files of a store in the ways that disks, copies and programs do."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def flip(path: Path, byte: int, bits: int = 1) -> None:
    """Flip bits of a byte, counted from the end where it is negative."""
    data = bytearray(path.read_bytes())
    data[byte] ^= bits
    path.write_bytes(data)


def cut(path: Path, share: float) -> Path:
    """Cut a file to a share of its bytes, in place."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def swap_rows(path: Path) -> None:
    data = bytearray(path.read_bytes())
    slot = (len(data) - 64 - 8 * 8 - 16 * 8 - 4) // 8
    data[:slot], data[slot : 2 * slot] = data[slot : 2 * slot], data[:slot]
    path.write_bytes(data)


def swap_shards(path: Path) -> None:
    other = path.with_name(path.name.replace("c.1", "c.0"))
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


INJURIES: dict[str, Callable[[Path], object]] = {
    "a bit flipped": lambda path: flip(path, 700),
    "a bit of the table flipped": lambda path: flip(path, -64),
    "a bit of the index flipped": lambda path: flip(path, -20),
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut in half": partial(cut, share=0.5),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "rows swapped": swap_rows,
    "shards swapped": swap_shards,
    "something appended": lambda path: path.write_bytes(path.read_bytes() + b"x"),
}
