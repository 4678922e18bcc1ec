"""What is installed: three packages under one name, the recipes, three commands that answer at once."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.processes.commands import run_python

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "timm", "zarr", "numpy", "pydantic", "cv2", "pyarrow", "dask", "matplotlib")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PACKAGES = ("cache", "train", "evaluate")
CLIS = ("usjepa.cache.cli", "usjepa.train.cli", "usjepa.evaluate.cli")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    # Built from a copy: a build folder in the tree would be shared with the editable install.
    copy = tmp_path_factory.mktemp("source") / "usjepa"
    for folder in ("cache", "train", "evaluate", "tests", "benchmarks"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", ".venv*"))
    for file in ("pyproject.toml", "pipelines.yaml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    run_python("-m", "build", "--wheel", "--no-isolation", "--outdir", out, copy)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_usjepa_alone_with_its_recipes_and_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"usjepa", f"usjepa-{VERSION}.dist-info"}
    assert "usjepa/pipelines.yaml" in names
    assert {"usjepa/cache/py.typed", "usjepa/cache/sources/formats/images.py", "usjepa/train/cli.py"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_misses_no_module(wheel: Path) -> None:
    modules = {f"usjepa/{p.relative_to(ROOT)}" for folder in PACKAGES for p in (ROOT / folder).rglob("*.py")}
    assert modules <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_misses_no_template_nor_published_score(wheel: Path) -> None:
    data = {p for folder in PACKAGES for p in (ROOT / folder).rglob("*") if p.suffix in {".html", ".css", ".csv"}}
    assert {"base.html", "style.css", "page.html", "paper_scores.csv"} <= {p.name for p in data}
    assert {f"usjepa/{p.relative_to(ROOT)}" for p in data} <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_brings_three_commands(wheel: Path) -> None:
    entry_points = zipfile.ZipFile(wheel).read(f"usjepa-{VERSION}.dist-info/entry_points.txt").decode()
    for package in PACKAGES:
        assert f"usjepa-{package} = usjepa.{package}.cli:main" in entry_points


def test_the_wheel_works_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    target, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    run_python("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel)
    assert sorted(p.name for p in target.iterdir() if not p.name.endswith(".dist-info")) == ["bin", "usjepa"]
    here: dict[str, Any] = {"cwd": empty, "env": {"PYTHONPATH": str(target)}}
    assert 'source: "phantom"' in run_python("-m", "usjepa.cache.cli", "recipe", "demo", **here).stdout
    where = run_python("-c", "import usjepa.cache.errors as e; print(e.__file__)", **here)
    assert where.stdout.startswith(str(target))


def test_the_version_stands_in_one_place_and_is_quoted_from_there() -> None:
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{VERSION}]" in (ROOT / "CHANGELOG.md").read_text()
    quoting = [p for folder in PACKAGES for p in (ROOT / folder).rglob("*.py") if f'"{VERSION}"' in p.read_text()]
    assert not quoting


@pytest.mark.parametrize("module", CLIS)
def test_version_is_printed_and_imports_nothing_heavy(module: str) -> None:
    program = (
        f"import sys\nfrom {module} import main\n"
        "try:\n    main(['--version'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"assert not set(sys.modules) & set({HEAVY!r})\n"
    )
    assert re.fullmatch(r"usjepa \d+\.\d+\.\d+", run_python("-c", program).stdout.strip())


@pytest.mark.parametrize("module", CLIS)
def test_help_imports_nothing_heavy(module: str) -> None:
    program = (
        f"import sys, click\nfrom {module} import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"heavy = sorted(set(sys.modules) & set({HEAVY!r}))\nassert not heavy, heavy\n"
    )
    assert "Usage:" in run_python("-c", program).stdout


def test_each_subcommand_has_help_that_imports_nothing_heavy() -> None:
    from usjepa.cache.cli import main

    for name in main.commands:
        program = (
            f"import sys\nfrom usjepa.cache.cli import main\n"
            f"try:\n    main(['{name}', '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
            f"assert not set(sys.modules) & set({HEAVY!r})\n"
        )
        run_python("-c", program)


def test_imports_run_one_way() -> None:
    for i, package in enumerate(PACKAGES):
        for path in (ROOT / package).rglob("*.py"):
            for later in PACKAGES[i + 1 :]:
                assert f"usjepa.{later}" not in path.read_text(), f"{path} looks upwards to {later}"


def test_everything_that_is_declared_is_pinned_as_a_public_build() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    extras = project["optional-dependencies"].values()
    wanted = [Requirement(r) for r in (*project["dependencies"], *itertools.chain(*extras))]
    for requirement in wanted:
        version = pins[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, f"{requirement} is pinned to {version}"
    assert not [f"{name}=={version}" for name, version in pins.items() if "+" in version], "not on every index"


def test_the_makefile_lists_every_file_of_the_packages() -> None:
    rule = "include Makefile\nlisted: ; @printf '%s\\n' $(LISTED)\n"
    made = subprocess.run(
        ["make", "-s", "-f", "-", "listed"], input=rule, cwd=ROOT, capture_output=True, text=True, check=True
    )
    listed = {Path(line).as_posix() for line in made.stdout.splitlines()}
    endings = (".py", ".html", ".css", ".js", ".csv", ".typed")
    there = {
        path.relative_to(ROOT).as_posix()
        for folder in PACKAGES
        for path in (ROOT / folder).rglob("*")
        if path.name.endswith(endings)
    }
    assert listed == there, "a new file would not be installed"
