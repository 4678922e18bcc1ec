"""Describe a layer, one Zarr array over all rows, as dataclass and as `zarr.json`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.coding.coding import Coding
from usjepa.cache.errors import DamageError, FormatError
from usjepa.cache.identity import Json, digest_of, parse_json
from usjepa.cache.lazy import lazy
from usjepa.cache.store.shard import ShardLayout

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT_MAJOR, FORMAT_MINOR = 2, 0
"""The newest that is read. Written is the oldest that a store's layers need, see `format_of`."""
_LAYER_NAME = re.compile(r"^(pixels|regions|(latents|scales)/[a-z0-9][a-z0-9_-]*(\.[0-9]{1,4})?)$")
"""Behind a teacher's name may stand the block that its tokens are of."""
_DTYPES = ("uint8", "int8", "float16", "float32")
_MAX_ROW_NBYTES = 1 << 30
_DIMENSIONS = {
    "pixels": ("row", "channel", "y", "x"),
    "regions": ("row", "cell_byte"),
    "latents": ("row", "token", "feature"),
    "scales": ("row", "token"),
}


@dataclass(frozen=True)
class Layer:
    """One array: what a row of it is, and what it was computed by.

    Raises FormatError on a name, dtype or shape that no store of this format holds.
    """

    name: str
    dtype: str
    """NumPy name, little-endian."""
    shape: tuple[int, ...]
    """Shape of one row."""
    rows_per_shard: int
    identity: dict[str, Json]
    """Hard identity: a difference in any field is another layer."""
    channel_scale: tuple[float, ...] = field(default=())
    """int8 and int4 latents only: [W] per-channel divisors from the calibration sample."""
    coding: Coding | None = None
    """Latents on axes, or packed: what leads back to [T, D]. None: the rows are [T, D] as they stand."""

    def __post_init__(self) -> None:
        if not _LAYER_NAME.match(self.name):
            raise FormatError(f"{self.name!r} is not the name of a layer.")
        if self.dtype not in _DTYPES:
            raise FormatError(f"layer {self.name}: dtype {self.dtype!r} is none of {', '.join(_DTYPES)}.")
        plausible = all(isinstance(n, int) and n > 0 for n in self.shape) and 0 < len(self.shape) <= 3
        if not plausible or not 0 < self.row_nbytes <= _MAX_ROW_NBYTES or not 0 < self.rows_per_shard <= 65536:
            raise FormatError(
                f"layer {self.name}: rows of shape {self.shape} x {self.rows_per_shard} are not plausible."
            )
        if self.coding is not None and not self._fits(self.coding):
            raise FormatError(f"layer {self.name}: rows of {self.dtype} {self.shape} do not fit their coding.")

    def _fits(self, coding: Coding) -> bool:
        """Return whether rows can be what a coding describes."""
        scaled = coding.packed or self.dtype == "int8"
        wanted = coding.coded_width if scaled else 0
        return (
            self.kind == "latents"
            and len(self.shape) == 2
            and self.shape[1] == coding.stored_width
            and coding.packed == (self.dtype == "uint8")
            and len(self.channel_scale) == wanted
        )

    @property
    def kind(self) -> str:
        """What its rows are: `pixels`, `regions`, `latents` or `scales`."""
        return self.name.partition("/")[0]

    @property
    def teacher(self) -> str | None:
        """Name of the teacher that computed its latents or scales; None for pixels and regions."""
        return self.name.partition("/")[2] or None

    @property
    def latent_shape(self) -> tuple[int, int]:
        """Of latents: (T, D) of a row once it is read back, whatever its array holds."""
        tokens, width = self.shape
        return tokens, width if self.coding is None else self.coding.width

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row."""
        nbytes = np.dtype(self.dtype).itemsize
        for n in self.shape:  # Python ints: a forged shape can't overflow
            nbytes *= n
        return nbytes

    @lazy
    def digest(self) -> str:
        """xxh3-128 (hex) of name, dtype, shape, calibration and hard identity; seeds every row's checksum."""
        return digest_of(
            {
                "layer": self.name,
                "dtype": self.dtype,
                "shape": list(self.shape),
                "channel_scale": list(self.channel_scale),
                "identity": self.identity,
                **self._coding_json(),
            }
        )

    def _coding_json(self) -> dict[str, Json]:
        """Return nothing where there is none: such layers are described as ever."""
        return {} if self.coding is None else {"coding": self.coding.to_json()}

    @property
    def layout(self) -> ShardLayout:
        """Where things lie in this layer's shards."""
        return ShardLayout(self.rows_per_shard, self.row_nbytes)

    def shard_of(self, row: int) -> int:
        """Return the number of the shard that a row lies in."""
        return row // self.rows_per_shard

    def shard_name(self, shard: int) -> str:
        """Return the file name of a shard, relative to the store."""
        return f"{self.name}/c.{shard}" + ".0" * len(self.shape)

    def commit_name(self, shard: int) -> str:
        """Return the file name of a shard's commit record."""
        return f"commits/{self.name}/{shard:06d}.json"

    def to_json(self) -> dict[str, Json]:
        """Return the layer as a manifest holds it, without its shards."""
        return {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "rows_per_shard": self.rows_per_shard,
            "identity": self.identity,
            "channel_scale": list(self.channel_scale),
            "digest": self.digest,
            **self._coding_json(),
        }

    @classmethod
    def from_json(cls, name: str, data: dict[str, Any], where: str) -> Layer:
        """Rebuild a layer; raises DamageError when its fields do not give its digest."""
        try:
            layer = cls(
                name,
                str(data["dtype"]),
                tuple(int(n) for n in data["shape"]),
                int(data["rows_per_shard"]),
                dict(data["identity"]),
                tuple(float(x) for x in data["channel_scale"]),
                Coding.from_json(data["coding"]) if "coding" in data else None,
            )
            stored, found = data["digest"], layer.digest
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DamageError(f"{where}: the description of layer {name} is not whole ({error}).") from error
        if found != stored:
            raise DamageError(f"{where}: the description of layer {name} does not match its own digest.")
        return layer


def format_of(layers: Iterable[Layer]) -> dict[str, Json]:
    """Return the format that a reader of some layers must know: 1.0 as ever, 2.0 where any of them has a coding."""
    return {"major": 2 if any(layer.coding is not None for layer in layers) else 1, "minor": 0}


def _json_bytes(value: Json) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def group_json(attributes: dict[str, Json] | None = None) -> bytes:
    """Return the bytes of a Zarr group's `zarr.json`."""
    return _json_bytes({"zarr_format": 3, "node_type": "group", "attributes": attributes or {}})


def array_json(layer: Layer, rows: int) -> bytes:
    """Return the bytes of a layer's `zarr.json` for an array of `rows` rows."""
    one_byte = np.dtype(layer.dtype).itemsize == 1
    to_bytes: dict[str, Json] = {"name": "bytes"} if one_byte else _little_endian()
    sharding = {
        "chunk_shape": [1, *layer.shape],
        "codecs": [to_bytes, {"name": "crc32c"}],
        "index_codecs": [_little_endian(), {"name": "crc32c"}],
        "index_location": "end",
    }
    return _json_bytes(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [rows, *layer.shape],
            "data_type": layer.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [layer.rows_per_shard, *layer.shape]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": "NaN" if layer.dtype.startswith("float") else 0,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {"usjepa": layer.to_json()},
            "dimension_names": list(_DIMENSIONS[layer.kind]),
            "storage_transformers": [],
        }
    )


def _little_endian() -> dict[str, Json]:
    return {"name": "bytes", "configuration": {"endian": "little"}}


def parse_array_json(name: str, data: bytes, where: str) -> Layer:
    """Return the layer that an array's `zarr.json` describes; raises DamageError when it is not one of ours."""
    attributes = parse_json(data, where).get("attributes")
    ours = attributes.get("usjepa") if isinstance(attributes, dict) else None
    if not isinstance(ours, dict):
        raise DamageError(f"{where}: holds no usjepa attributes: damaged, or written by another program.")
    return Layer.from_json(name, ours, where)


def check_format(data: bytes, where: str) -> None:
    """Check the store's root `zarr.json`.

    Raises:
        FormatError: not a usjepa store, or one of a newer major format.
        DamageError: cut or damaged JSON.
    """
    attributes = parse_json(data, where).get("attributes")
    ours = attributes.get("usjepa") if isinstance(attributes, dict) else None
    version = ours.get("format") if isinstance(ours, dict) else None
    major = version.get("major") if isinstance(version, dict) else None
    if not isinstance(major, int):
        raise FormatError(
            f"{where}: a Zarr group, but not a usjepa store. Give the folder that `usjepa-cache build` wrote."
        )
    if major > FORMAT_MAJOR:
        raise FormatError(
            f"{where}: store format {major}.{version.get('minor')} is newer than format {FORMAT_MAJOR} "  # type: ignore[union-attr]
            "that this version of usjepa reads. Install a newer usjepa."
        )
