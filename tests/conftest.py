"""Fixtures that many tests share: real frames where they are, and one small phantom store a session."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from usjepa.cache.building.request import BuildRequest
from usjepa.cache.decoding import lifeline
from usjepa.cache.decoding.spare import spare_child

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]

# A thread of OpenMP that waits for another by spinning takes the processor from it: a training of a second took minutes
# beside a busy processor. It is read when torch is loaded, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A shell ignores Ctrl-C for what it starts in the background, and so would every command that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, and no clock to race against; `--hypothesis-profile=explore` draws others.
settings.register_profile("usjepa", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", settings.get_profile("usjepa"), derandomize=False)
settings.load_profile("usjepa")


# Pytest says there which test runs; a child that decodes for several tests need not know.
lifeline.NOT_HANDED_DOWN.add("PYTEST_CURRENT_TEST")
SHARE_A_CHILD = ("evaluate", "cache/frames", "cache/inspecting", "cache/scanning", "cache/sources/formats", "whole")
"""Rooms of tests that build from folders, and whose claims are not about the children that decode."""


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Make weights and draws without a generator of their own the same in every run, in fixtures and in tests."""
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Make them so in a test whichever fixtures were there before it."""
    _seed()


class _Kept(logging.Handler):
    """Keeps the lines that the package reports."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture(scope="module", autouse=True)
def kept_child(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have the tests of a file share an idle decoding child, as the steps of one build do."""
    room = Path(str(request.node.path)).parent.relative_to(ROOT / "tests").as_posix()
    with spare_child() if room.startswith(SHARE_A_CHILD) else contextlib.nullcontext():
        yield


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Lines that the package reports while a test runs."""
    reports, kept = logging.getLogger("usjepa"), _Kept()
    reports.addHandler(kept)
    reports.setLevel(logging.INFO)
    yield kept.lines
    reports.removeHandler(kept)
    reports.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def dev_data() -> Path:
    """Folder of real ultrasound frames; its tests skip where it is absent."""
    folder = Path(os.environ.get("USJEPA_DEV_DATA", ROOT / ".." / "shared" / "data" / "us-dev")).resolve()
    if not (folder / "manifest.csv").is_file():
        pytest.skip(f"no real frames at {folder}; set USJEPA_DEV_DATA to a folder with a manifest.csv")
    return folder


@pytest.fixture(scope="session")
def phantom_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed store of the phantom with a random teacher's latents; tests must not change it."""
    from tests.support.runs import TINY_STORE
    from usjepa.cache.building.build import build
    from usjepa.cache.recipes.recipe import load_recipe

    store = tmp_path_factory.mktemp("phantom") / "store.zarr"
    build(str(store), load_recipe("demo", TINY_STORE), BuildRequest(teacher="random"))
    return store


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed store of `tests.support.builds.small()`, built without a fault; tests must not change it."""
    from tests.support.builds import small
    from usjepa.cache.building.build import build
    from usjepa.cache.building.request import BuildRequest

    store = tmp_path_factory.mktemp("small") / "s"
    build(str(store), small(), BuildRequest(teacher="random"))
    return store
