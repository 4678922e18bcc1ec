"""Mutations: of bytes, behind the first magic; of JSON, before its digest is made right again; of text."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from usjepa.cache.identity import canonical, digest_of

if TYPE_CHECKING:
    from random import Random

NASTY: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 255, 65536, 65537, 2**31, 2**40, 2**63, 2**64, 10**30, -(2**63), 0.5, 1e308, "",
    "x", "../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "9" * 400, "x" * 3000, [], {}, [[]], [0] * 50,
    {"": 0},
    "float16", "pixels", "latents/x", "ff" * 16, [[0, "x"]], [[2**62, "x"]],
)  # fmt: skip
_BYTES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)


def mutate_bytes(rng: Random, data: bytes, keep: int = 8) -> bytes:
    """Return bytes changed in one to eight places, the first `keep` left alone."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if len(out) <= keep + 1:
            break
        at, kind = rng.randrange(keep, len(out)), rng.randrange(7)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.choice(_BYTES)
        elif kind == 2:
            width = rng.choice((2, 4, 8))
            value = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, rng.getrandbits(64)))
            out[at : at + width] = value.to_bytes(8, rng.choice(("little", "big")))[:width]
        elif kind == 3:
            del out[at : at + rng.choice((1, 4, 64, 4096))]
        elif kind == 4:
            out[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 4, 64))))
        elif kind == 5:
            start = rng.randrange(len(out))
            out[at:at] = out[start : start + rng.choice((4, 64, 512))]
        else:
            del out[at:]
    return bytes(out)


def mutate_json(rng: Random, value: Any) -> Any:
    """Return a JSON tree with one to four leaves or branches replaced, removed or doubled."""
    tree = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = [place for place in _places(tree) if place]
        if not places:
            return copy.deepcopy(rng.choice(NASTY))
        _change(rng, tree, rng.choice(places))
    return tree


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in children:
        found += _places(child, (*path, key))
    return found


def _change(rng: Random, tree: Any, path: tuple[Any, ...]) -> None:
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    key, kind = path[-1], rng.randrange(4)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif kind == 1:
        parent[rng.choice(("", "x", "digest", str(key) + "x"))] = copy.deepcopy(parent[key])
    else:
        parent[key] = copy.deepcopy(rng.choice(NASTY))


def redigested(tree: Any) -> bytes:
    """Return a description's bytes with its digest made right, so that only its content can be refused."""
    try:
        if isinstance(tree, dict):
            body = {key: value for key, value in tree.items() if key != "digest"}
            tree = {**body, "digest": digest_of(body)}
        return canonical(tree) + b"\n"
    except (ValueError, UnicodeEncodeError):
        return json.dumps(tree).encode("utf-8", "surrogatepass")


def mutate_text(rng: Random, text: str) -> bytes:
    """Return text with lines and cells changed, not always valid UTF-8."""
    lines = text.split("\n")
    for _ in range(rng.choice((1, 2, 4))):
        at = rng.randrange(len(lines))
        kind = rng.randrange(5)
        if kind == 0:
            lines[at] = str(rng.choice(NASTY))
        elif kind == 1:
            lines.insert(at, rng.choice(lines))
        elif kind == 2:
            cells = lines[at].split(",")
            cells[rng.randrange(len(cells))] = str(rng.choice(NASTY))
            lines[at] = ",".join(cells)
        elif kind == 3:
            lines[at] += rng.choice((",", '"', "\r", "\t- ", ": &a *a", "!!python/object:os.system x", "\0", "#"))
        else:
            del lines[at]
            lines = lines or [""]
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    return data if rng.random() < 0.9 else mutate_bytes(rng, data, 0)
