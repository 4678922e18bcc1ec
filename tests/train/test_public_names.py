"""What `usjepa.train` offers for loops of your own: every name is there, and nothing heavy is imported for it."""

from __future__ import annotations

import importlib

import pytest

from tests.cli.test_packaging import HEAVY
from tests.support.processes.commands import run_python

PACKAGE = importlib.import_module("usjepa.train")


def test_every_public_name_is_the_one_that_its_module_defines() -> None:
    for name in PACKAGE.__all__:
        assert getattr(PACKAGE, name).__name__ == name


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = f"import sys, usjepa.train\nassert not set(sys.modules) & set({HEAVY!r})\n"
    run_python("-c", program)


def test_masks_and_datasets_do_not_import_timm() -> None:
    program = (
        "import sys\nfrom usjepa.train import StoreDataset, sample_masks\n"
        "assert not set(sys.modules) & {'timm', 'matplotlib', 'distributed'}, sys.modules.keys()\n"
    )
    run_python("-c", program)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Model'"):
        PACKAGE.Model  # noqa: B018
