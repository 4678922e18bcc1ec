"""An export holds every row as it is stored, goes on where it was cut, and is checked when it is run again."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tests.support.builds import tree
from tests.support.files.damage import flip
from tests.support.processes import forked
from tests.support.stores import write_store
from usjepa.cache.cli import main
from usjepa.cache.converting.export import export
from usjepa.cache.errors import ClaimedError, DamageError, UsageError
from usjepa.cache.reading.store import Store, open_store
from usjepa.cache.storage import claims

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FORMATS = ("parquet", "npy", "webdataset")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_store(tmp_path / "s", 10, "int8", holes=((4, "torn"), (5, "torn"), (6, "torn"), (7, "torn")))
    return tmp_path / "s"


def _from_parquet(folder: Path) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    told = [line for table in tables for line in table.select(list(TOLD)).to_pylist()]
    shapes = json.loads(tables[0].schema.metadata[b"shapes"])
    arrays = {
        name: np.concatenate(
            [table[name].combine_chunks().flatten().to_numpy().reshape(-1, *shape) for table in tables]
        )
        for name, shape in shapes.items()
    }
    return told, arrays


def _from_npy(folder: Path) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    told = [line for path in sorted(folder.glob("rows-*.parquet")) for line in pq.read_table(path).to_pylist()]
    names = {path.name.rpartition("-")[0] for path in folder.glob("*.npy")}
    return told, {name: np.concatenate([np.load(p) for p in sorted(folder.glob(f"{name}-0*.npy"))]) for name in names}


def _from_webdataset(folder: Path) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    told: list[dict[str, Any]] = []
    arrays: dict[str, list[NDArray[Any]]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                file = tar.extractfile(entry)
                assert file is not None
                if entry.name.endswith(".json"):
                    told.append(json.load(file))
                else:
                    arrays.setdefault(entry.name.split(".")[1], []).append(np.load(io.BytesIO(file.read())))
    return told, {name: np.stack(parts) for name, parts in arrays.items()}


TOLD = ("row", "path", "dataset", "group", "label", "split", "frame", "view")
READ = {"parquet": _from_parquet, "npy": _from_npy, "webdataset": _from_webdataset}


@pytest.mark.parametrize("format_", FORMATS)
def test_every_row_is_there_as_it_is_stored(tmp_path: Path, store: Path, format_: str) -> None:
    export(str(store), str(tmp_path / "out"), format_)
    opened = open_store(store)
    told, arrays = READ[format_](tmp_path / "out")
    assert [line["row"] for line in told] == opened.rows.tolist() == [0, 1, 2, 3, 8, 9]
    for name, stored in opened.read(opened.rows, layers=list(opened.layers)).arrays.items():
        np.testing.assert_array_equal(arrays[name.replace("/", "-")], stored)
        assert arrays[name.replace("/", "-")].dtype == stored.dtype
    for line in told:
        origin = opened.origin_of(line["row"])
        assert (line["path"], line["group"], line["view"]) == (origin.source.path, origin.source.group, origin.view)
    index = json.loads((tmp_path / "out/export.json").read_text())
    assert set(index["files"]) == set(tree(tmp_path / "out")) - {"export.json"}
    assert index["layers"]["latents/toy"]["channel_scale"] == list(opened.layers["latents/toy"].channel_scale)


def _export_and_die(store: str, output: str, format_: str, step: int) -> None:
    forked.die_at_durable_step(step)
    export(store, output, format_)


@pytest.mark.parametrize(("format_", "step"), [("parquet", 2), ("parquet", 6), ("npy", 14), ("webdataset", 8)])
def test_an_export_that_is_killed_goes_on_to_the_same_bytes(
    tmp_path: Path, store: Path, format_: str, step: int
) -> None:
    export(str(store), str(tmp_path / "whole"), format_)
    assert forked.run(_export_and_die, str(store), str(tmp_path / "out"), format_, step) == -9
    assert not (tmp_path / "out/export.json").exists()
    export(str(store), str(tmp_path / "out"), format_)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_run_again_what_was_changed_or_lost_is_made_anew(tmp_path: Path, store: Path) -> None:
    export(str(store), str(tmp_path / "out"), "parquet")
    whole = tree(tmp_path / "out")
    flip(tmp_path / "out/part-000000.parquet", 100)
    (tmp_path / "out/part-000002.parquet").unlink()
    export(str(store), str(tmp_path / "out"), "parquet")
    assert tree(tmp_path / "out") == whole


@pytest.mark.parametrize("damage", [b"", b"{", None])
def test_a_damaged_index_vouches_for_no_file(tmp_path: Path, store: Path, damage: bytes | None) -> None:
    write_store(tmp_path / "other", 10, "int8", seed=1, holes=((4, "torn"), (5, "torn"), (6, "torn"), (7, "torn")))
    out, index = tmp_path / "out", tmp_path / "out/export.json"
    export(str(store), str(tmp_path / "whole"), "npy")
    if damage is None:  # an entry is lost, and a byte of its file flips
        export(str(store), str(out), "npy")
        flip(out / "pixels-000000.npy", 300)
        index.write_text(index.read_text().replace("pixels-000000.npy", "pixels-000009.npy"))
    else:
        export(str(tmp_path / "other"), str(out), "npy")
        index.write_bytes(damage)
    assert forked.run(_export_and_die, str(store), str(out), "npy", 9) == -9
    export(str(store), str(out), "npy")
    assert tree(out) == tree(tmp_path / "whole")


def test_a_damaged_mark_vouches_for_no_file(tmp_path: Path, store: Path) -> None:
    export(str(store), str(tmp_path / "whole"), "npy")
    assert forked.run(_export_and_die, str(store), str(tmp_path / "out"), "npy", 14) == -9
    flip(tmp_path / "out/pixels-000000.npy", 300)
    (tmp_path / "out/export.unfinished.json").write_bytes(b"")
    assert forked.run(_export_and_die, str(store), str(tmp_path / "out"), "npy", 7) == -9
    export(str(store), str(tmp_path / "out"), "npy")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_two_exports_into_one_folder_are_one_after_the_other(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    read = Store.read

    def meanwhile(*args: Any, **more: Any) -> Any:
        if not asked:
            asked.append(True)
            with pytest.raises(ClaimedError, match="is being exported by"):
                export(str(store), str(tmp_path / "out"), "npy")
        return read(*args, **more)

    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(Store, "read", meanwhile)
    export(str(store), str(tmp_path / "out"), "npy")
    assert asked
    assert not (tmp_path / "out/claims").exists()
    assert set(tree(tmp_path / "out")) == {
        "export.json",
        *json.loads((tmp_path / "out/export.json").read_text())["files"],
    }


def test_damage_is_named_and_chosen_layers_alone_are_read(tmp_path: Path, store: Path) -> None:
    flip(store / "latents/toy/c.0.0.0", 1)
    with pytest.raises(DamageError, match="row 0"):
        export(str(store), str(tmp_path / "a"), "npy")
    export(str(store), str(tmp_path / "b"), "npy", ["pixels"])
    assert {path.name.rpartition("-")[0] for path in (tmp_path / "b").glob("*.npy")} == {"pixels"}


def test_what_does_not_fit_is_refused_and_left_alone(tmp_path: Path, store: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("x")
    export(str(store), str(tmp_path / "out"), "npy")
    before = tree(tmp_path)
    for output, format_, layers, match in (
        ("mine", "npy", [], "not empty and no export"),
        ("out", "parquet", [], "another store, format or choice"),
        ("out", "npy", ["pixels"], "another store, format or choice"),
        ("new", "npy", ["latents/nobody"], "no layer 'latents/nobody'"),
    ):
        with pytest.raises(UsageError, match=match):
            export(str(store), str(tmp_path / output), format_, layers)
    with pytest.raises(UsageError, match="not to a URL"):
        export(str(store), "s3://bucket/out", "npy")
    assert tree(tmp_path) == before


def test_the_command_says_what_it_wrote(tmp_path: Path, store: Path) -> None:
    result = CliRunner().invoke(main, ["export", str(store), str(tmp_path / "out"), "--format", "webdataset"])
    assert result.exit_code == 0
    assert "exported: 6 rows, 2 files" in result.output
