"""What is installed: three packages under one name, the recipes, three commands that answer at once."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "timm", "zarr", "numpy", "pydantic", "cv2", "pyarrow", "dask", "matplotlib")
CLIS = ("usjepa.cache.cli", "usjepa.train.cli", "usjepa.evaluate.cli")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    # Built from a copy: a build folder in the tree would be shared with the editable install.
    copy = tmp_path_factory.mktemp("source") / "usjepa"
    subprocess.run(["git", "checkout-index", "-a", f"--prefix={copy}/"], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_usjepa_alone_with_its_recipes_and_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"usjepa", "usjepa-0.1.0.dist-info"}
    assert "usjepa/pipelines.yaml" in names
    assert {"usjepa/cache/py.typed", "usjepa/cache/sources/images.py", "usjepa/train/cli.py"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_works_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    target, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*install, str(wheel)], check=True)
    assert sorted(p.name for p in target.iterdir() if not p.name.endswith(".dist-info")) == ["bin", "usjepa"]
    command = [sys.executable, "-m", "usjepa.cache.cli", "recipe", "demo"]
    env = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(command, cwd=empty, env=env, capture_output=True, text=True, check=True)
    assert 'source: "phantom"' in done.stdout
    where = [sys.executable, "-c", "import usjepa.cache.errors as e; print(e.__file__)"]
    assert subprocess.run(where, cwd=empty, env=env, capture_output=True, text=True).stdout.startswith(str(target))


@pytest.mark.parametrize("module", CLIS)
def test_help_imports_nothing_heavy(module: str) -> None:
    program = (
        f"import sys, click\nfrom {module} import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"heavy = sorted(set(sys.modules) & set({HEAVY!r}))\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_each_subcommand_has_help_that_imports_nothing_heavy() -> None:
    from usjepa.cache.cli import main

    for name in main.commands:
        program = (
            f"import sys\nfrom usjepa.cache.cli import main\n"
            f"try:\n    main(['{name}', '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
            f"assert not set(sys.modules) & set({HEAVY!r})\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_imports_run_one_way() -> None:
    order = ("cache", "train", "evaluate")
    for i, package in enumerate(order):
        for path in (ROOT / package).rglob("*.py"):
            for later in order[i + 1 :]:
                assert f"usjepa.{later}" not in path.read_text(), f"{path} looks upwards to {later}"
