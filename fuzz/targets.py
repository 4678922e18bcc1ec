"""What is fuzzed: every parser of a store's files and of a source's, each with honest seeds."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import google_crc32c
import h5py
import numpy as np
import scipy.io
import torch
from safetensors.torch import save_file

from fuzz.mutate import NASTY, mutate_bytes, mutate_json, mutate_text, redigested
from fuzz.sources import Target, members, repacked, source_target, write_archive, zarr_folder
from tests.cache.sources.formats.arrays.test_arrays import uff as write_uff
from tests.cache.sources.formats.dicom.test_dicom import write as write_dicom
from tests.cache.sources.formats.packed.test_parquet import write as write_parquet
from tests.support.files.clips import grey_steps, write_clip
from tests.support.files.volumes import write_volume
from tests.support.stores import layers, write_store
from usjepa.cache.errors import FormatError
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.sources.layouts.manifest import read_manifest
from usjepa.cache.store.commits import Commit
from usjepa.cache.store.generations import Manifest, Segment
from usjepa.cache.store.layers import Layer, check_format, parse_array_json
from usjepa.cache.store.shard import parse_trailer, table_hash
from usjepa.cache.store.tables import Places, RowTable, SourceTable
from usjepa.cache.teacher.checkpoints.weights import read_weights
from usjepa.cache.teacher.names.folders import folder_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random


MOST_ROWS = 2_000_000
"""Claimed rows beyond this are not materialised: 8 bytes a claimed row is what opening a store costs by design."""


def targets(folder: Path) -> list[Target]:
    """Return all targets; their seeds are made in `folder`."""
    write_store(folder / "s", 10, "int8", holes=((3, "a/0003.png: torn"),))
    return [*_descriptions(folder / "s"), *_whole_stores(folder), *_texts(folder), *_sources(folder), *_weights(folder)]


def _descriptions(store: Path) -> list[Target]:
    manifest = json.loads((store / "manifest.json").read_bytes())
    commit = json.loads((store / "commits/pixels/000000.json").read_bytes())
    root = json.loads((store / "zarr.json").read_bytes())
    array = json.loads((store / "latents/toy/zarr.json").read_bytes())
    tables = {name: (store / f"segments/000001/{name}.parquet").read_bytes() for name in ("sources", "rows")}

    def an_array(rng: Random) -> bytes:
        tree = mutate_json(rng, array)
        # A tree that is no layer any more keeps a digest that does not matter. No parser of ours is asked here: a fault
        # of its own would be swallowed, and the wrong digest then hide it from the target.
        with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError, FormatError):
            ours = tree["attributes"]["usjepa"]
            ours["digest"] = _digest(ours)
        return json.dumps(tree).encode("utf-8", "surrogatepass")

    def a_manifest(data: bytes) -> None:
        parsed = Manifest.from_bytes(data, "m")
        if sum(segment.rows for segment in parsed.segments) <= MOST_ROWS:
            parsed.row_numbers()
        parsed.to_bytes()

    def a_segment(data: bytes) -> None:
        Segment.from_json(json.loads(data), "s")

    return [
        Target("manifest", 0.15, lambda rng: redigested(mutate_json(rng, manifest)), a_manifest),
        Target("commit record", 0.1, lambda rng: redigested(mutate_json(rng, commit)), lambda d: _commit(d)),
        Target("segment", 0.05, lambda rng: _bytes(mutate_json(rng, manifest["segments"][0])), a_segment),
        Target("root zarr.json", 0.05, lambda rng: _bytes(mutate_json(rng, root)), lambda d: check_format(d, "r")),
        Target("array zarr.json", 0.1, an_array, lambda d: _array(d)),
        Target("shard table and index", 0.2, _trailer(store), _parse_trailer),
        Target("sources.parquet", 0.05, lambda rng: mutate_bytes(rng, tables["sources"], 4), _sources_table),
        Target("rows.parquet", 0.05, lambda rng: mutate_bytes(rng, tables["rows"], 4), _rows_table),
    ]


def _bytes(tree: Any) -> bytes:
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def _digest(ours: dict[str, Any]) -> str:
    """Return the digest of a described layer, its values as a reader takes them."""
    scale = tuple(float(x) for x in ours["channel_scale"])
    shape = tuple(int(n) for n in ours["shape"])
    identity = dict(ours["identity"])
    return Layer("latents/toy", str(ours["dtype"]), shape, int(ours["rows_per_shard"]), identity, scale).digest


def _commit(data: bytes) -> None:
    Commit.from_bytes(data, "c")


def _array(data: bytes) -> None:
    parse_array_json("latents/toy", data, "a")


def _sources_table(data: bytes) -> None:
    SourceTable.from_parquet(data)


def _rows_table(data: bytes) -> None:
    RowTable.from_parquet(data, most=10_000)
    Places.from_parquet(data, most=10_000)


def _trailer(store: Path) -> Callable[[Random], bytes]:
    """Return inputs whose table hash and index crc32c are right: only what they say can be refused.

    Half of the indexes are such as a writer makes, with holes anywhere; words of the others are changed.
    """
    layout = layers()["latents/toy"].layout
    data = (store / "latents/toy/c.0.0.0").read_bytes()[-layout.trailer_nbytes :]
    absent = struct.pack("<QQ", 2**64 - 1, 2**64 - 1)

    def make(rng: Random) -> bytes:
        table = data[: layout.table_nbytes]
        if rng.random() < 0.3:
            table = mutate_bytes(rng, table)[: layout.table_nbytes].ljust(layout.table_nbytes, b"\0")
        there = [rng.random() < 0.8 for _ in range(layout.rows)]
        places = iter(range(layout.rows))
        index = bytearray(
            b"".join(
                struct.pack("<QQ", next(places) * layout.slot_nbytes, layout.row_nbytes + 4) if row else absent
                for row in there
            )
        )
        for _ in range(rng.choice((0, 0, 0, 1, 2, 4))):
            word = rng.choice([n for n in NASTY if isinstance(n, int) and 0 <= n < 2**64] + [rng.getrandbits(64)])
            at = 8 * rng.randrange(len(index) // 8)
            index[at : at + 8] = int(word).to_bytes(8, "little")
        crc = google_crc32c.value(bytes(index))
        right = layout.size(sum(there))
        size = rng.choice((right, right, 0, len(data), layout.size(3), 2**40))
        return struct.pack("<q", size) + table + bytes(index) + crc.to_bytes(4, "little")

    return make


def _parse_trailer(data: bytes) -> None:
    layout, trailer = layers()["latents/toy"].layout, data[8:]
    expected = table_hash(trailer[: layout.table_nbytes])
    parsed = parse_trailer(trailer, struct.unpack("<q", data[:8])[0], layout, expected, "t")
    taken = parsed.offsets[parsed.offsets >= 0]
    assert (np.diff(taken) == layout.slot_nbytes).all()
    assert taken.size == 0 or taken[-1] + layout.slot_nbytes < 2**20


def _whole_stores(folder: Path) -> list[Target]:
    """One file of a whole store is changed, then the store is opened and read."""
    root = folder / "s"
    files = sorted(path for path in root.rglob("*") if path.is_file())
    originals = {path: path.read_bytes() for path in files}
    truth = {row: _read(root, row) for row in open_store(root).rows.tolist()}

    def make(rng: Random) -> bytes:
        at = rng.randrange(len(files))
        return struct.pack("<I", at) + mutate_bytes(rng, originals[files[at]], 0)

    def run(data: bytes) -> None:
        path = files[struct.unpack("<I", data[:4])[0]]
        path.write_bytes(data[4:])
        try:
            for row, content in truth.items():
                assert _read(root, row) == content, f"row {row} reads as something else"
        finally:
            path.write_bytes(originals[path])

    return [Target("whole store", 0.1, make, run)]


def _read(root: Path, row: int) -> bytes:
    store = open_store(root, threads=1)
    arrays = store.read([row]).arrays
    store.close()
    return b"".join(arrays[name].tobytes() for name in sorted(arrays))


def _texts(folder: Path) -> list[Target]:
    listed = folder / "listed"
    listed.mkdir()
    for name in ("a.png", "b.png", "c.mp4"):
        (listed / name).write_bytes(b"x")
    manifest = "path,dataset,label,group,split\na.png,d,none,p1,train\nb.png,d,cyst,p2,test\nc.mp4,e,,p3,\n"
    from usjepa.cache.recipes import recipe as recipe_module

    recipes = (Path(recipe_module.__file__).resolve().parents[2] / "pipelines.yaml").read_text()

    def read(data: bytes) -> None:
        (listed / "manifest.csv").write_bytes(data)
        read_manifest(listed / "manifest.csv")

    def load(data: bytes) -> None:
        (folder / "r.yaml").write_bytes(data)
        load_recipe("demo", (), str(folder / "r.yaml"))

    return [
        Target("manifest CSV", 0.05, lambda rng: mutate_text(rng, manifest), read),
        Target("recipe YAML", 0.005, lambda rng: mutate_text(rng, recipes), load),
    ]


def _sources(folder: Path) -> list[Target]:
    frame = np.random.default_rng(0).integers(0, 255, (40, 48), dtype=np.uint8)
    for ending in ("png", "jpg", "tif", "bmp"):
        cv2.imwrite(str(folder / f"i.{ending}"), frame)
    write_clip(folder / "v.mp4", grey_steps(4))
    write_clip(folder / "v.avi", grey_steps(4), codec="mjpeg", layout="yuvj420p")
    write_dicom(folder / "d.dcm", frame, "MONOCHROME2")
    with h5py.File(folder / "h.h5", "w") as file:
        file["images"] = np.stack([frame] * 3)
    write_uff(folder / "u.uff", np.linspace(-60, 0, 3 * 40 * 48).reshape(3, 40, 48))
    clip = np.stack([frame] * 3)
    np.save(folder / "n.npy", clip)
    np.savez(folder / "n.npz", images=clip)
    scipy.io.savemat(folder / "n.mat", {"images": np.moveaxis(clip, 0, -1)})
    cv2.imwrite(str(folder / "i.webp"), frame)
    write_clip(folder / "v.mkv", grey_steps(4), codec="mpeg4")
    for ending in ("nii", "nii.gz", "mha", "nrrd"):
        write_volume(folder / f"n.{ending}", clip)
    kinds = [("i.png", "images", 0.04), ("i.jpg", "images", 0.02), ("i.tif", "images", 0.02), ("i.bmp", "images", 0.01),
             ("d.dcm", "dicom", 0.02), ("v.mp4", "video", 0.01), ("v.avi", "video", 0.01),
             ("n.nii", "nifti", 0.02), ("n.nii.gz", "nifti", 0.005), ("n.mha", "metaimage", 0.01),
             ("n.nrrd", "nrrd", 0.01), ("n.npy", "npy", 0.01), ("i.webp", "images", 0.01),
             ("v.mkv", "video", 0.005)]  # fmt: skip
    return [source_target(folder / name, kind, share) for name, kind, share in kinds] + [
        source_target(folder / "h.h5", "hdf5", 0.005, "::images"),
        source_target(folder / "n.npz", "npz", 0.005, "::images"),
        source_target(folder / "n.mat", "matlab", 0.01, "::images"),
        source_target(folder / "u.uff", "uff", 0.005, "::b_data"),
        source_target(write_archive(folder / "a.zip", folder / "i.png"), "archive", 0.005, "::cyst/i.png"),
        source_target(write_archive(folder / "a.tar.gz", folder / "i.png"), "archive", 0.002, "::cyst/i.png"),
        source_target(write_parquet(folder / "p.parquet", label=[0] * 12), "parquet", 0.005, "::image/07"),
        zarr_folder(folder / "z.zarr", clip),
        repacked(folder / "n.npz", "npz", "images"),
        repacked(folder / "a.zip", "archive", "cyst/i.png"),
        members(folder / "m.zip"),
    ]


def _weights(folder: Path) -> list[Target]:
    tensors = {"blocks.0.w": torch.ones(3, 4), "norm": torch.zeros(4)}
    save_file(tensors, folder / "w.safetensors")
    torch.save({"model": tensors}, folder / "w.pth")
    tagged = torch.nn.Parameter(torch.ones(2))
    tagged.no_decay = True  # type: ignore[attr-defined]
    content = {"ema": tensors, "model": tensors, "args": argparse.Namespace(lr=0.1), "best": np.float64(1)}
    content |= {"models": [{"w": tagged}, (tensors, 3)]}
    torch.save(content, folder / "old.pth", _use_new_zipfile_serialization=False)

    def target(name: str, share: float) -> Target:
        original = (folder / name).read_bytes()

        def run(data: bytes) -> None:
            (folder / f"x{name}").write_bytes(data)
            read_weights(folder / f"x{name}")

        return Target(f"checkpoint ({name})", share, lambda rng: mutate_bytes(rng, original, 4), run)

    def pickled(rng: Random) -> bytes:
        """Return a torch file whose pickle is changed and whose zip is whole."""
        out = io.BytesIO()
        torch.save(content, plain := io.BytesIO())
        with zipfile.ZipFile(plain) as file, zipfile.ZipFile(out, "w") as changed:
            for name in file.namelist():
                data = file.read(name)
                changed.writestr(name, mutate_bytes(rng, data, 2) if name.endswith("data.pkl") else data)
        return out.getvalue()

    def read(data: bytes) -> None:
        (folder / "p.pth").write_bytes(data)
        read_weights(folder / "p.pth")

    config = {"model_type": "vit", "num_attention_heads": 3, "hidden_act": "gelu", "layer_norm_eps": 1e-6}
    input_of = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 32, "width": 32}}
    cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    timm_config = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": cfg, "model_args": {"depth": 1}}
    sizes = {"layers": 1, "width": 64, "image_size": 32, "patch_size": 16, "head_width": 32}
    vision = {"vision_cfg": {**sizes, "norm_kwargs": {"eps": 1e-5}, "act_kwargs": {"approximate": "tanh"}}}
    clip = {"model_cfg": vision, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    save_file(tensors, folder / "model.safetensors")

    def folder_of(rng: Random) -> bytes:
        """Return configurations of a folder of weights, one of them changed."""
        kind = rng.choice(("config.json", "preprocessor_config.json", "timm", "open_clip_config.json"))
        files = {"config.json": timm_config if kind == "timm" else config, "preprocessor_config.json": input_of}
        if kind == "open_clip_config.json":
            files[kind] = clip
        changed = "config.json" if kind == "timm" else kind
        return _bytes({**files, changed: mutate_json(rng, files[changed])})

    def read_folder(data: bytes) -> None:
        place = Path(tempfile.mkdtemp(dir=folder))
        for name, content in json.loads(data).items():
            (place / name).write_bytes(_bytes(content))
        (place / "model.safetensors").hardlink_to(folder / "model.safetensors")
        folder_settings(place, TeacherSettings())
        shutil.rmtree(place)

    configurations = Target("teacher's configuration", 0.02, folder_of, read_folder)
    files = [configurations, target("w.safetensors", 0.03), target("w.pth", 0.01), target("old.pth", 0.02)]
    return [*files, Target("checkpoint (its pickle)", 0.02, pickled, read)]
