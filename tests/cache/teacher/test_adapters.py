"""A teacher that usjepa does not know is added from outside by one function: docs/how-to/add-a-teacher.md, run."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from tests.support.builds import SMALL, small, tree
from usjepa.cache.cli import main
from usjepa.cache.errors import TeacherError, UsageError
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.cache.teacher.resolve import described_teacher, load_pass, load_teacher, resolve_teacher
from usjepa.cache.teacher.vit import load_timm

if TYPE_CHECKING:
    from collections.abc import Callable

    from usjepa.cache.teacher.teacher import Pass

PAGE = Path(__file__).parents[3] / "docs/how-to/add-a-teacher.md"
ADAPTER = "lab_teachers:tiny_cnn"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path that holds the page's module, and weights for it."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (tmp_path / "lab_teachers.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lab_teachers", raising=False)
    write_weights(tmp_path / "tiny.safetensors", seed=0)
    return tmp_path


def write_weights(file: Path, seed: int) -> None:
    from lab_teachers import TinyCNN  # type: ignore[import-not-found]

    torch.manual_seed(seed)
    save_file(TinyCNN().state_dict(), file)


def call(lab: Path, command: str, *more: str, teacher: str = ADAPTER) -> Result:
    weights = f"cache.teacher.weights={lab / 'tiny.safetensors'}"
    sets = [part for one in (*SMALL, "cache.teacher.name=tiny-cnn", weights) for part in ("--set", one)]
    store = str(lab / "s.zarr")
    return CliRunner().invoke(main, [command, store, "--pipeline", "demo", "--teacher", teacher, *sets, *more])


def test_a_network_that_is_no_vit_builds_resumes_and_audits_a_store(lab: Path) -> None:
    assert call(lab, "build").exit_code == 0
    assert open_store(str(lab / "s.zarr")).layers["latents/tiny-cnn"].shape == (16, 32)
    whole = tree(lab / "s.zarr")
    for gone in ("latents/tiny-cnn/c.1.0.0", "commits/latents/tiny-cnn/000001.json", "manifest.json"):
        (lab / "s.zarr" / gone).unlink()
    assert call(lab, "build").exit_code == 0
    assert tree(lab / "s.zarr") == whole
    audited = call(lab, "audit", "--rows", "8")
    assert audited.exit_code == 0, audited.output


def _other_weights(lab: Path) -> None:
    write_weights(lab / "tiny.safetensors", seed=1)


def _edited(lab: Path) -> None:
    module = lab / "lab_teachers.py"
    module.write_text(module.read_text().replace("torch.relu", "torch.tanh"))
    sys.modules.pop("lab_teachers")


@pytest.mark.parametrize(("change", "field"), [(_other_weights, "weights"), (_edited, "source")])
@pytest.mark.parametrize("command", ["build", "audit"])
def test_a_teacher_whose_weights_or_code_changed_is_refused_field_by_field(
    lab: Path, command: str, change: Callable[[Path], None], field: str
) -> None:
    assert call(lab, "build").exit_code == 0
    before = tree(lab / "s.zarr")
    change(lab)
    refused = call(lab, command)
    assert refused.exit_code == 2
    differing = re.findall(r'^  identity\.(\S+): "[0-9a-f]{32}" \| "[0-9a-f]{32}"$', refused.output, flags=re.MULTILINE)
    assert differing == [f"teacher.{field}"]
    assert tree(lab / "s.zarr") == before


def test_an_installed_package_offers_its_teacher_by_a_name_and_its_version_is_part_of_the_identity(lab: Path) -> None:
    info = lab / "lab_teachers-1.4.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-teachers\nVersion: 1.4\n")
    (info / "entry_points.txt").write_text(f"[usjepa.teachers]\ntiny-cnn = {ADAPTER}\n")
    (info / "top_level.txt").write_text("lab_teachers\n")
    weights = TeacherSettings(weights=str(lab / "tiny.safetensors"))
    named = load_teacher(resolve_teacher("tiny-cnn", weights), 32, "cpu")
    assert named.identity["distribution"] == "lab-teachers 1.4"
    assert named.identity["architecture"] == ADAPTER
    again = load_teacher(described_teacher(named.identity, None, weights.weights), 32, "cpu")
    assert again.identity == named.identity


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("lab_teachers:tiny_cn", r"can't import tiny_cn from lab_teachers"),
        ("lab_teacher:tiny_cnn", r"can't import tiny_cnn from lab_teacher .*PYTHONPATH"),
    ],
)
def test_an_adapter_that_is_not_there_is_refused_with_what_to_do(lab: Path, adapter: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_teacher(TeacherSettings(architecture=adapter), 32, "cpu")


def _no_teacher(*_: Any) -> object:
    return torch.nn.Identity()


def _broken(*_: Any) -> object:
    raise KeyError("stem.weight")


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("_no_teacher", r"gave a Identity, which is not a teacher: it lacks name, grid, dim, device"),
        ("_broken", r"its adapter failed \(.*test_adapters\.py, line \d+\): KeyError\('stem\.weight'\)"),
    ],
)
def test_an_adapter_that_fails_is_named_with_the_line_that_failed(adapter: str, message: str) -> None:
    with pytest.raises(TeacherError, match=message):
        load_teacher(TeacherSettings(architecture=f"{__name__}:{adapter}"), 32, "cpu")


def test_several_blocks_are_refused_of_an_adapter_that_gives_one_teacher(lab: Path) -> None:
    settings = TeacherSettings(architecture=ADAPTER, weights=str(lab / "tiny.safetensors"), blocks=(1, 2))
    with pytest.raises(UsageError, match=r"blocks=\[1, 2\]: the adapter .* gives one teacher, not one for each block"):
        load_pass(settings, 32, "cpu")


def _two_depths(settings: TeacherSettings, pixel_size: int, device: torch.device) -> Pass:
    """Return the pass of a timm model, as an adapter may that knows several depths."""
    return load_timm(settings.model_copy(update={"architecture": "test_vit"}), pixel_size, device)


def test_an_adapter_may_give_several_blocks_of_one_pass() -> None:
    settings = TeacherSettings(architecture=f"{__name__}:_two_depths", blocks=(1, 2), name="lab")
    run = load_pass(settings, 32, "cpu")
    assert [teacher.name for teacher in run.teachers] == ["lab.1", "lab.2"]
    with pytest.raises(UsageError, match=r"blocks names lab\.1, lab\.2, and one is needed here"):
        load_teacher(settings, 32, "cpu")


def test_latents_of_another_shape_than_the_teacher_states_are_refused_before_they_are_stored(lab: Path) -> None:
    module = lab / "lab_teachers.py"
    module.write_text(module.read_text().replace("dim=32", "dim=64"))
    sys.modules.pop("lab_teachers")
    refused = call(lab, "build")
    assert refused.exit_code == 1
    assert "gave latents of shape [1, 16, 32] float32, not the [1, 16, 64] float32 that it states" in refused.output
    assert not list((lab / "s.zarr" / "latents").glob("*/c.*"))


def test_a_precision_that_the_identity_does_not_state_is_refused(lab: Path) -> None:
    module = lab / "lab_teachers.py"
    module.write_text(module.read_text().replace("dim=32,", 'dim=32, compute="bf16",'))
    sys.modules.pop("lab_teachers")
    settings = TeacherSettings(architecture=ADAPTER, weights=str(lab / "tiny.safetensors"))
    with pytest.raises(TeacherError, match="it computes in bf16 and its identity states fp32"):
        load_teacher(settings, 32, "cpu")


def test_a_recipe_may_name_the_adapter_as_its_architecture(lab: Path) -> None:
    wanted = small(f"cache.teacher.architecture={ADAPTER}", f"cache.teacher.weights={lab / 'tiny.safetensors'}").cache
    assert wanted.teacher is not None
    assert load_teacher(wanted.teacher, 32, "cpu").dim == 32
