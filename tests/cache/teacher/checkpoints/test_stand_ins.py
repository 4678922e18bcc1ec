"""Nothing in a file is imported or run: Python objects beside the weights become inert, and are named."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import pathlib
import pickle
import sys
import zipfile
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from usjepa.cache.errors import TeacherError
from usjepa.cache.teacher.checkpoints.weights import read_weights

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = {"norm.weight": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)}


@dataclass
class Config:
    depth: int = 3


class Listing(list[int]): ...


class Mapping(dict[str, int]): ...


class Slots:
    __slots__ = ("a",)

    def __init__(self) -> None:
        self.a = 1


BYSTANDERS: dict[str, Any] = {
    "namespace": argparse.Namespace(lr=1e-3, blocks=[1, 2]),
    "numpy scalar": np.float64(0.5),
    "numpy array": np.arange(3),
    "path": pathlib.PurePosixPath("/data"),
    "date": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "dataclass": Config(),
    "a list's child": Listing([1, 2]),
    "a dict's child": Mapping(a=1),
    "slots": Slots(),
    "defaultdict": collections.defaultdict(list, a=[1]),
    "counter": collections.Counter("aab"),
    "set": {1, 2},
    "function": np.mean,
    "simple namespace": SimpleNamespace(a=1),
    "complex": 1j,
    "optimizer": torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]).state_dict(),
    "module's method": torch.nn.functional.gelu,
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("kind", BYSTANDERS)
def test_weights_are_read_whatever_lies_beside_them(tmp_path: Path, kind: str, old: bool) -> None:
    content = {"model": {**WEIGHTS, "p": torch.nn.Parameter(torch.ones(1))}, "other": BYSTANDERS[kind]}
    torch.save(content, tmp_path / "c.pth", _use_new_zipfile_serialization=not old)
    weights = read_weights(tmp_path / "c.pth")
    assert sorted(weights.tensors) == ["half", "norm.weight", "p"]
    for name, tensor in WEIGHTS.items():
        assert torch.equal(weights.tensors[name], tensor)


class Wrapping(torch.Tensor): ...


def _with_an_attribute(tensor: torch.Tensor) -> torch.Tensor:
    tensor.no_decay = True  # type: ignore[attr-defined]
    return tensor


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize(
    "kind",
    [
        lambda t: t.as_subclass(Wrapping),  # as MONAI's MetaTensor
        lambda t: _with_an_attribute(t.clone()),
        lambda t: _with_an_attribute(torch.nn.Parameter(t.clone())),
    ],
    ids=["a child of tensors", "with an attribute", "a parameter with an attribute"],
)
def test_tensors_that_carry_more_are_read_without_it(tmp_path: Path, kind: Any, old: bool) -> None:
    torch.save({"w": kind(WEIGHTS["norm.weight"])}, tmp_path / "c.pth", _use_new_zipfile_serialization=not old)
    tensor = read_weights(tmp_path / "c.pth").tensors["w"]
    assert torch.equal(tensor, WEIGHTS["norm.weight"])
    assert type(tensor) is torch.Tensor
    assert not hasattr(tensor, "no_decay")


def test_a_child_of_tensors_is_made_by_none_but_torchs_own_builders(tmp_path: Path) -> None:
    made = tmp_path / "was-here"
    hostile = _Reduced(torch._tensor._rebuild_from_type_v2, eval, torch.Tensor, (f"open({str(made)!r}, 'w')",), {})
    torch.save({"model": WEIGHTS, "x": hostile}, tmp_path / "c.pth")
    assert torch.equal(read_weights(tmp_path / "c.pth").tensors["half"], WEIGHTS["half"])
    assert not made.exists()


def test_the_replaced_classes_are_named(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "args": argparse.Namespace(), "cfg": Config()}, tmp_path / "c.pth")
    weights = read_weights(tmp_path / "c.pth")
    assert weights.replaced == ("argparse.Namespace", f"{__name__}.Config")
    assert f"Python objects not loaded: argparse.Namespace, {__name__}.Config" in weights.summary()


class _Reduced:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
def test_a_file_that_would_run_code_runs_nothing_and_its_weights_are_read(tmp_path: Path, old: bool) -> None:
    made = tmp_path / "was-here"
    acts = [
        _Reduced(eval, f"open({str(made)!r}, 'w')"),
        _Reduced(pathlib.Path.touch, made),
        _Reduced(getattr, made, "touch"),
    ]
    torch.save({"model": WEIGHTS, "x": acts}, tmp_path / "c.pth", _use_new_zipfile_serialization=not old)
    weights = read_weights(tmp_path / "c.pth")
    assert torch.equal(weights.tensors["half"], WEIGHTS["half"])
    assert {"builtins.eval", "builtins.getattr"} < set(weights.replaced)
    assert not made.exists()


def test_no_module_that_a_file_names_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lab_secret.py").write_text("class C: ...\nraise SystemExit('imported')\n")
    pickled = pickle.dumps({"model": 0}, protocol=2).replace(b"K\x00", b"clab_secret\nC\n")
    buffer = io.BytesIO()
    torch.save({"model": WEIGHTS}, buffer)
    with zipfile.ZipFile(buffer) as file, zipfile.ZipFile(tmp_path / "c.pth", "w", zipfile.ZIP_STORED) as out:
        for name in file.namelist():
            out.writestr(name, pickled if name.endswith("data.pkl") else file.read(name))
    with pytest.raises(TeacherError, match=r"lab_secret\.C"):
        read_weights(tmp_path / "c.pth")
    assert "lab_secret" not in sys.modules


def test_a_pickles_state_reaches_no_object(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS}, tmp_path / "c.pth")
    defaults = torch._utils._rebuild_tensor_v2.__defaults__
    hostile = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}U\x0c__defaults__(U\x01xtts\x86b."
    with zipfile.ZipFile(tmp_path / "c.pth") as file, zipfile.ZipFile(tmp_path / "d.pth", "w") as out:
        for name in file.namelist():
            out.writestr(name, hostile if name.endswith("data.pkl") else file.read(name))
    with pytest.raises(TeacherError):
        read_weights(tmp_path / "d.pth")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == defaults


def test_a_whole_pickled_module_is_refused_and_named(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "c.pth")
    with pytest.raises(TeacherError, match=r"torch\.nn\.modules\.linear\.Linear.*Save the model's state_dict"):
        read_weights(tmp_path / "c.pth")


def test_a_torchscript_program_is_refused_before_torch_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    torch.save({"model": WEIGHTS}, buffer)
    with zipfile.ZipFile(buffer) as file, zipfile.ZipFile(tmp_path / "c.pth", "w", zipfile.ZIP_STORED) as out:
        for name in file.namelist():
            out.writestr(name, file.read(name))
        out.writestr(f"{file.namelist()[0].split('/')[0]}/constants.pkl", b"\x80\x02).")
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("a program was loaded"))
    with pytest.raises(TeacherError, match="a TorchScript program, not weights"):
        read_weights(tmp_path / "c.pth")


def test_torchs_oldest_format_is_refused(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "c.pth", "w") as file:
        file.add(__file__, "storages")
    with pytest.raises(TeacherError, match="tar format"):
        read_weights(tmp_path / "c.pth")


def test_a_table_of_memory_that_a_file_asks_for_is_not_filled(tmp_path: Path) -> None:
    # LONG_BINPUT 2**31: the unpickler in C would set up as many places, 16 GiB.
    (tmp_path / "c.pth").write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)[:-1] + b"r\xff\xff\xff\x7f.")
    with pytest.raises(TeacherError, match="not readable as a torch checkpoint"):
        read_weights(tmp_path / "c.pth")
