"""Probes and layouts from outside the package are found, shown wherever scores are shown, and can't take a name."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
import tomllib
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.support.endings import ending
from tests.support.evaluations import FAST, call, export_run
from tests.support.files.published import write_image
from tests.support.labelled import patients, write_labelled
from tests.support.scoring import scored
from usjepa.cache.errors import UsageError, UsjepaError
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.evaluate.extensions import Registry
from usjepa.evaluate.probes.base import Predictions, ProbeInput, ProbeRecord
from usjepa.evaluate.probes.registry import PROBES, register_probe
from usjepa.evaluate.scores.records import Measure
from usjepa.evaluate.scoring.evaluation import wanted_probes
from usjepa.evaluate.tasks.find import find_tasks
from usjepa.evaluate.tasks.layouts import LAYOUTS, recognise, register_layout

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.evaluate.tasks.base import TaskFolder

KINDS = ("probe", "layout")
SIZE = ("--set", "cache.image_size=32", "--set", "cache.rows_per_shard=16", "--set", "cache.decode_processes=1")


def blocks(kind: str) -> dict[str, str]:
    """Return the titled code blocks of a how-to page, and under "" its last one, which registers by hand."""
    text = (ROOT / f"docs/how-to/add-a-{kind}.md").read_text()
    titled = dict(re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', text, re.DOTALL))
    return {**titled, "": re.findall(r"```python\n(.*?)```", text, re.DOTALL)[-1]}


def install(site: Path, kind: str) -> None:
    """Lay out the page's package as pip does: its module, and metadata with its entry points."""
    found = blocks(kind)
    project = tomllib.loads(found["pyproject.toml"])["project"]
    (module,) = tomllib.loads(found["pyproject.toml"])["tool"]["setuptools"]["py-modules"]
    site.mkdir(exist_ok=True)
    (site / f"{module}.py").write_text(found[f"{module}.py"])
    metadata = site / f"{project['name'].replace('-', '_')}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *[f"{name} = {value}" for name, value in points.items()]]
    (metadata / "entry_points.txt").write_text("\n".join([*lines, ""]))


def write_lab(folder: Path) -> None:
    """Write frames as the page's layout expects them."""
    lines = ["image,finding,patient,split"]
    for i in range(60):
        write_image(folder / "frames" / f"{i}.png", i % 2 if i % 5 else i)
        lines.append(f"{i}.png,{'cyst' if i % 2 else 'none'},p{i // 2},{'test' if i >= 40 else 'train'}")
    (folder / "findings.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluate a run on a task of the page's layout with the page's probe, both installed, in a process of its own."""
    folder = tmp_path_factory.mktemp("extended")
    for kind in KINDS:
        install(folder / "site", kind)
    write_labelled(folder / "store.zarr", patients(4, ["cyst", "none"]), size=32)
    export_run(folder / "run", folder / "store.zarr")
    write_lab(folder / "frames-2026")
    command = ["run", "--task", "frames-2026", "-o", "out", *FAST, *SIZE, "--set", "evaluate.baselines=[pixels]"]
    command += ["--set", "evaluate.probes=[centroid]"]
    done = ending("usjepa-evaluate", *command, within=folder, before=partial(on_the_path, folder / "site"))
    assert done.code == 0, done.told
    (folder / "stdout.txt").write_text(done.printed)
    return folder


def on_the_path(site: Path) -> None:
    """Have packages of a folder count as installed, in this process and its children."""
    sys.path.insert(0, str(site))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])


def test_a_layout_of_another_package_is_recognised_and_its_splits_and_patients_hold(place: Path) -> None:
    (task,) = json.loads((place / "out" / "scores.json").read_text())["tasks"]
    assert (task["layout"], task["name"], task["classes"]) == ("lab", "frames-2026", ["cyst", "none"])
    assert task["counts"]["test"] == {"frames": 20, "groups": 10, "classes": {"cyst": 10, "none": 10}}
    assert task["split_origin"]["test"] == "given by the data"


def test_a_probe_of_another_package_stands_in_report_csv_latex_and_terminal(place: Path) -> None:
    document = json.loads((place / "out" / "scores.json").read_text())
    assert document["inputs"]["probes"] == {"centroid": 1}
    page = (place / "out" / "index.html").read_text()
    for shown in (
        "class means: macro F1",
        "class means: accuracy",
        "Class means: the nearest class mean.",
        "<dt>Class",
    ):
        assert shown in page
    lines = list(csv.DictReader((place / "out" / "scores.csv").read_text().splitlines()))
    for scores in document["scores"]:
        found = scores["probes"]["centroid"]
        assert found["measures"]["macro_f1"]["interval"] is not None
        for measure in ("macro_f1", "balanced_accuracy", "accuracy"):
            mean = found["measures"][measure]["mean"]
            (line,) = [
                one
                for one in lines
                if (one["encoder"], one["classifier"], one["measure"], one["statistic"])
                == (scores["encoder"], "centroid", measure, "mean")
            ]
            assert float(line["value"]) == mean
        assert f"class means {100 * found['measures']['macro_f1']['mean']:.1f}" in page
    table = (place / "out" / "table.tex").read_text()
    assert "tab:usjepa-centroid" in table
    assert "nearest class means of frozen features: bold is the best of ours" in table
    assert "class means" in (place / "stdout.txt").read_text()


def test_a_probe_is_compared_where_its_package_is_not_installed(place: Path) -> None:
    assert "centroid" not in PROBES.all()
    found = call("compare", place / "out", place / "out", "--classifier", "centroid", "--encoders", "student", "pixels")
    assert found.exit_code == 0
    assert "student | pixels" in found.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_registers_without_a_package(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (module,) = [name for name in blocks(kind) if name.endswith(".py")]
    (tmp_path / module).write_text(blocks(kind)[module])
    monkeypatch.syspath_prepend(tmp_path)
    for registry in (PROBES, LAYOUTS):
        monkeypatch.setattr(registry, "_added", [])
    exec(blocks(kind)[""], {})
    if kind == "probe":
        assert [probe.name for probe in wanted_probes(EvaluateSettings(probes=("centroid",)))][-1] == "centroid"
    else:
        write_lab(tmp_path / "frames")
        (folder,) = recognise(f"lab={tmp_path / 'frames'}", CacheSettings())
        assert (folder.layout, len(folder.files)) == ("lab", 60)
    sys.modules.pop(module.removesuffix(".py"))


def test_a_name_that_is_taken_or_unknown_and_what_is_no_probe_are_refused() -> None:
    probe = PROBES.named("knn")
    nameless, plain = (cast("Any", SimpleNamespace(name=name)) for name in ("nameless", "plain"))
    with pytest.raises(UsageError, match="two are called 'knn'"):
        register_probe(type(probe)())
    with pytest.raises(UsageError, match="SimpleNamespace has no version, no described, no score"):
        register_probe(nameless)
    with pytest.raises(UsageError, match="there are probe, attentive, logistic, logistic-fixed, knn"):
        wanted_probes(EvaluateSettings(probes=("svm",)))
    with pytest.raises(UsageError, match="'plain' is the layout of what no other recognises"):
        register_layout(plain)


def test_an_installed_probe_that_can_not_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "probe")
    (tmp_path / "lab_probes.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[Any] = Registry("usjepa.probes", ("name",), ())
    with pytest.raises(UsageError, match=r"centroid \(lab_probes:CentroidProbe\).*no_such_library.*uninstall it"):
        registry.all()


@dataclass
class Wrong:
    """A probe that returns, or raises, what it is told to."""

    made: Any
    name: str = "wrong"
    version: int = 1
    described: ProbeRecord = field(default_factory=lambda: ProbeRecord(title="Wrong", column="wrong", meaning=""))

    def score(self, given: ProbeInput) -> Predictions:
        if isinstance(self.made, Exception):
            raise self.made
        made: Predictions = self.made(len(given.test))
        return made


@pytest.mark.parametrize(
    ("made", "told"),
    [
        pytest.param(
            ZeroDivisionError("x / 0"), r"failed \(.*test_extensions\.py, line \d+\): ZeroDivision", id="raises"
        ),
        pytest.param(lambda n: np.zeros(n), "it returned a ndarray", id="no predictions"),
        pytest.param(
            lambda n: Predictions(cast("Any", np.zeros((1, n)))), "is float64 .*, not int64", id="no integers"
        ),
        pytest.param(lambda n: Predictions(np.zeros(n, np.int64)), r"not int64 \[seeds, \d+\]", id="no row per seed"),
        pytest.param(lambda n: Predictions(np.full((1, n), 2)), "classes outside of 0 to 1", id="unknown class"),
        pytest.param(
            lambda n: Predictions(np.zeros((2, n), np.int64), seeded=False),
            "2 rows of predictions",
            id="rows, no seeds",
        ),
        pytest.param(
            lambda n: Predictions(np.zeros((1, n), np.int64), np.zeros((1, n, 3))),
            "probability_SNC",
            id="probabilities",
        ),
        pytest.param(
            lambda n: Predictions(np.zeros((1, n), np.int64), measures={"macro_f1": Measure(mean=1.0)}),
            "macro_f1 is computed from the predictions",
            id="a measure that is ours",
        ),
    ],
)
def test_what_another_packages_probe_does_wrong_is_named(
    made: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PROBES, "_added", [])
    register_probe(Wrong(made))
    settings = EvaluateSettings(seeds=1, epochs=1, probes=("wrong",), few_shot=(), corruptions=())
    (task,) = find_tasks(write_labelled(tmp_path / "s.zarr", patients(12, ["a", "b"])), settings).tasks
    with pytest.raises(UsjepaError, match=f"toy: probe wrong .*{told}"):
        scored(task, np.ones((len(task), 2), np.float32), settings, tmp_path)


def test_what_another_packages_layout_raises_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path, settings: CacheSettings) -> list[TaskFolder]:
        raise KeyError("finding")

    monkeypatch.setattr(LAYOUTS, "_added", [])
    register_layout(SimpleNamespace(name="lab", wanted="anything.", fits=lambda path: True, read=read))
    with pytest.raises(
        UsageError, match=r"layout `lab` failed \(.*test_extensions\.py, line \d+\): KeyError\('finding'\)"
    ):
        recognise(str(tmp_path), CacheSettings())
