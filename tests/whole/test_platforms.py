"""What Linux alone has is missed by nobody: all three stages run where it is taken away; Windows is refused plainly."""

from __future__ import annotations

import json
import re
import time
import tomllib
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.__main__ import paragraph, run
from benchmarks.gpu.parts import Part
from tests.support.builds import pictures
from tests.support.processes.commands import run_python
from usjepa.cache.teacher.device import soft_identity

ROOT = Path(__file__).parents[2]

_WITHOUT_LINUX = """
import errno, io, os
for name in ("sched_getaffinity", "posix_fadvise", "RWF_NOWAIT", "memfd_create", "posix_fallocate", "sendfile"):
    if hasattr(os, name):
        delattr(os, name)
def kept_out(real):
    def called(path, *rest, **named):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(("/proc", "/sys", "/dev/shm")):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return real(path, *rest, **named)
    return called
io.open, os.readlink = kept_out(io.open), kept_out(os.readlink)
"""
"""Run by Python before any program, hence in every child too: macOS has none of these."""

_ALL_STAGES = """
import os, sys
assert not hasattr(os, "posix_fadvise")
from tests.support.endings import DEMO
from tests.support.evaluations import FAST
from usjepa.cache.cli import main as cache
from usjepa.train.cli import main as train
from usjepa.evaluate.cli import main as evaluate
small = (*DEMO, "--set", "train.epochs=1", "--set", "train.warmup_epochs=0", "--set", "train.batch_size=4")
for main, words in (
    (cache, ("build", "s.zarr", *small, "--teacher", "random")),
    (cache, ("build", "clips.zarr", *small, "--source", "in")),
    (cache, ("verify", "s.zarr")),
    (cache, ("doctor",)),
    (train, ("s.zarr", "run", *small)),
    (evaluate, ("run", "--task", "s.zarr", *small, *FAST, "-o", "report")),
):
    main(words, standalone_mode=False)
"""


@pytest.mark.slow
def test_all_stages_run_without_what_only_linux_has(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["a/1.png", "a/2.png"])
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(_WITHOUT_LINUX)
    env = {"PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}", "OMP_NUM_THREADS": "2"}  # two: training then looks at the cores
    ended = run_python("-c", _ALL_STAGES, cwd=tmp_path, env=env)
    assert "sealed" in ended.stderr
    assert (tmp_path / "report/index.html").stat().st_size > 10_000


def test_windows_is_refused_with_what_to_do() -> None:
    program = "import sys; sys.platform = 'win32'; import usjepa.cache.cli"
    told = run_python("-c", program, code=1).stderr.splitlines()[-1]
    assert told.startswith("ImportError: usjepa runs on Linux and macOS")
    assert "WSL 2" in told


def test_a_gpu_of_another_kind_is_recorded_by_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert soft_identity(torch.device("mps"))["device"] == "mps arm"
    assert str(soft_identity(torch.device("cpu"))["device"]).startswith("cpu ")


def test_both_images_are_made_of_the_same_files_by_the_same_commands_and_miss_none() -> None:
    docker, apptainer = ((ROOT / "docs/containers" / name).read_text() for name in ("Dockerfile", "usjepa.def"))
    copied = {word for line in re.findall(r"^COPY (.*)", docker, re.M) for word in line.split()[:-1]}
    assert copied == {line.split()[0] for line in re.findall(r"^    (.*) /opt/usjepa/", apptainer, re.M)}
    assert {f"!{name}" for name in copied} | {"*", "**/__pycache__"} == set(
        (ROOT / "docs/containers/Dockerfile.dockerignore").read_text().split()
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml", "pipelines.yaml"}
    assert copied == needed | {"constraints.txt", "cache", "train", "evaluate"}
    installs = [
        set(re.findall(r"pip install [^&;\\\n]*[^&;\\\s]", text.replace("{{ VARIANT }}", "$VARIANT")))
        for text in (docker, apptainer)
    ]
    assert installs[0] == installs[1]
    extras = {word for line in installs[0] for found in re.findall(r"\[(.*?)\]", line) for word in found.split(",")}
    assert extras <= set(project["project"]["optional-dependencies"])


def test_the_check_of_a_gpu_records_how_each_part_ended(tmp_path: Path) -> None:
    end = time.monotonic() + 1000
    wrote = "json.dump({'unit': 's', 'min_median_max': {'a': [1, 2, 3]}}, open('r.json', 'w'))"
    found = {
        name: run(Part(name, name, ("-c", program), limit, gpus), 1, end, "cpu")
        for name, program, limit, gpus in (
            ("fine", f"import json, os; os.chdir(os.environ['USJEPA_RESULTS']); {wrote}", 60, 1),
            ("fails", "import sys; print('why'); sys.exit(3)", 60, 1),
            ("hangs", "import time; print('begun', flush=True); time.sleep(99)", 3, 1),
            ("two", "", 60, 2),
            ("late", "", 2000, 1),
        )
    }
    assert found["fine"]["ended"] == "passed"
    assert found["fails"]["ended"] == "failed with 3"
    assert found["fails"]["output"] == ["why"]
    assert found["hangs"]["ended"] == "out of time after 3 s"
    assert found["two"]["ended"] == "left out: needs 2 GPUs, there is 1"
    assert found["late"]["ended"].startswith("left out: ")
    told = paragraph({"device": "some", "parts": found})
    assert "| a | 2.00 s |" in told
    assert "| fails: fails | failed with 3 |" in told


def test_the_check_of_a_gpu_says_where_there_is_none() -> None:
    told = run_python("-m", "benchmarks.gpu", code=1, cwd=ROOT, env={"CUDA_VISIBLE_DEVICES": ""})
    assert told.stderr.startswith("no GPU that torch can use")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_part_of_the_check_of_a_gpu_runs_on_a_processor(tmp_path: Path) -> None:
    env = {"USJEPA_RESULTS": str(tmp_path)}
    told = run_python(
        "-m", "benchmarks.gpu", "--device", "cpu", "--minutes", 60, "--patience", 4, cwd=ROOT, env=env, limit_s=3500
    )
    ended = {name: part["ended"] for name, part in json.loads((tmp_path / "gpu.json").read_text())["parts"].items()}
    assert set(ended.values()) == {"passed"}, (ended, told.stdout)
