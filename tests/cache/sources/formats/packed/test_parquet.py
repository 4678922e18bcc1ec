"""Parquet with images, as Hugging Face writes it: images, labels, groups and splits."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.files.decoded import listed, read_all
from tests.support.files.volumes import echo
from usjepa.cache.errors import SourceError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

CLIP = echo(12)


def png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, **columns: Any) -> Path:
    """Write columns as Hugging Face does, with the names of its classes beside the schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(frame), "path": f"{n}.png"} for n, frame in enumerate(CLIP)]
    table = pa.table({"image": images, **columns})
    features = {"label": {"names": ["benign", "malignant"], "_type": "ClassLabel"}}
    kept = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(kept), path, row_group_size=5)
    return path


def test_each_image_is_a_source_with_label_group_and_split(tmp_path: Path) -> None:
    labels, patients = [n % 2 for n in range(12)], [f"p{n // 3}" for n in range(12)]
    for split in ("train", "validation", "test"):
        write(tmp_path / "data" / f"{split}-00000-of-00001.parquet", label=labels, patient_id=patients)
    listing = listed(tmp_path)
    assert len(listing.entries) == 36
    entry = next(e for e in listing.entries if e.path == "data/validation-00000-of-00001.parquet::image/07")
    assert (entry.label, entry.group, entry.split) == ("malignant", "p2", "val")
    assert {e.split for e in listing.entries} == {"train", "val", "test"}
    for path, (frame,) in read_all(listing).items():
        assert np.array_equal(frame, CLIP[int(path[-2:])])


def test_a_column_of_splits_counts_before_the_files_name(tmp_path: Path) -> None:
    write(tmp_path / "all.parquet", split=["train"] * 8 + ["Testing"] * 4)
    listing = listed(tmp_path)
    assert [entry.split for entry in listing.entries] == ["train"] * 8 + ["test"] * 4


PATIENTS, SIDES = [f"p{n // 3}" for n in range(12)], ["train"] * 6 + ["test"] * 6
KINDS = {
    "large": pa.large_string(),
    "views": pa.string_view(),
    "categories": pa.dictionary(pa.int8(), pa.string()),
    "large categories": pa.dictionary(pa.int32(), pa.large_string()),
}


@pytest.mark.parametrize("kind", list(KINDS.values()), ids=list(KINDS))
def test_text_describes_images_however_it_is_stored(tmp_path: Path, kind: pa.DataType) -> None:
    columns = {"split": SIDES, "patient_id": PATIENTS, "label": ["cyst", "mass"] * 6}
    write(tmp_path / "a.parquet", **{name: pa.array(cells, pa.string()).cast(kind) for name, cells in columns.items()})
    entries = listed(tmp_path).entries
    assert [(entry.split, entry.group) for entry in entries] == list(zip(SIDES, PATIENTS, strict=True))
    assert {entry.label for entry in entries} == {"cyst", "mass"}


def test_numbers_of_patients_may_be_floats_of_which_some_are_missing(tmp_path: Path) -> None:
    """As pandas writes whole numbers as soon as one of them is missing."""
    write(tmp_path / "a.parquet", patient_id=[float(n // 3) for n in range(11)] + [None], label=[1.0, float("nan")] * 6)
    entries = listed(tmp_path).entries
    assert [entry.group for entry in entries] == [*(str(n // 3) for n in range(11)), "a"]
    assert {entry.label for entry in entries} == {"1", ""}


def test_patients_and_splits_are_found_under_the_names_that_a_manifest_may_give_them(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", subset=SIDES, Participant=PATIENTS)
    assert [(one.split, one.group) for one in listed(tmp_path).entries] == list(zip(SIDES, PATIENTS, strict=True))


@pytest.mark.parametrize(
    "columns", [{"patient_id": [["p1"]] * 12}, {"split": [["test"]] * 12}, {"is_test": [0, 1] * 6}]
)
def test_a_column_that_may_tell_patients_or_splits_and_is_not_understood_is_refused(
    tmp_path: Path, columns: dict[str, Any]
) -> None:
    write(tmp_path / "a.parquet", **columns)
    with pytest.raises(UsageError, match=rf"a\.parquet: .*column `{next(iter(columns))}`"):
        listed(tmp_path)


@pytest.mark.parametrize("name", ["external-00000-of-00001.parquet", "stress_test.parquet"])
def test_a_file_whose_split_is_not_known_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    with pytest.raises(UsageError, match="which split it is can't be told"):
        listed(tmp_path)


@pytest.mark.parametrize(("name", "column"), [("splits", "set_of"), ("about", "split")])
def test_a_table_of_splits_without_images_stops_the_scan(tmp_path: Path, name: str, column: str) -> None:
    write(tmp_path / "a.parquet")
    pq.write_table(pa.table({"file": ["a", "b"], column: ["train", "test"]}), tmp_path / f"{name}.parquet")
    with pytest.raises(UsageError, match=rf"{name}\.parquet: it holds splits and no images. Test frames could be"):
        listed(tmp_path)


def test_masks_are_left_out_and_empty_cells_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", mask=[{"bytes": png(frame), "path": None} for frame in CLIP])
    listing = listed(file)
    assert {entry.path.partition("::")[2].partition("/")[0] for entry in listing.entries} == {"image"}
    assert listing.notes[0].startswith(f"data sets beside images were left out: {len(CLIP)} mask (mask, by its name).")
    table = pq.read_table(file).to_pydict()
    table["image"][3] = {"bytes": None, "path": "images/3.png"}
    pq.write_table(pa.table({"image": table["image"]}), file)
    with pytest.raises(SourceError, match=r"image/03' is empty: the image lies elsewhere, in 'images/3\.png'"):
        read_all(listed(file))


def test_a_table_without_images_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"age": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="none of its columns holds images as bytes: it has age int64"):
        read_all(listed(tmp_path))
    whole = write(tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:-100])
    with pytest.raises(SourceError, match="can't be read as Parquet with images"):
        read_all(listed(tmp_path))
