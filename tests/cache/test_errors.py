"""The tree of errors, its exit codes, and that an error keeps its fields on the way between processes."""

from __future__ import annotations

import inspect
import pickle

import pytest

from usjepa.cache import errors
from usjepa.cache.errors import DamageError, HoleError, RowError, UsjepaError

EXIT_CODES = {
    "UsjepaError": 1,
    "UsageError": 2,
    "RecipeError": 2,
    "SourceError": 1,
    "NoImageError": 1,
    "BlankError": 1,
    "TextError": 1,
    "WholeFrameError": 1,
    "TeacherError": 1,
    "StoreError": 1,
    "FormatError": 2,
    "NotSealedError": 2,
    "WithdrawnError": 2,
    "IdentityError": 2,
    "ClaimedError": 1,
    "RowError": 1,
    "DamageError": 3,
    "HoleError": 1,
    "WriteError": 1,
    "TrainingError": 1,
    "Interrupted": 75,
}


def test_every_error_belongs_to_one_tree_and_has_its_exit_code() -> None:
    found = dict(inspect.getmembers(errors, inspect.isclass))
    tree = {name: error.exit_code for name, error in found.items() if issubclass(error, UsjepaError)}
    assert tree == EXIT_CODES
    assert tree.keys() == found.keys()


@pytest.mark.parametrize("kind", [DamageError, HoleError])
def test_an_error_of_a_row_keeps_its_fields_when_another_process_sends_it(kind: type[RowError]) -> None:
    error = kind("s/pixels/c.1: row 7 does not match its checksum.", layer="pixels", shard=1, row=7)
    error.show("a.png, frame 0, view 1")
    sent = pickle.loads(pickle.dumps(error))
    assert str(sent) == "s/pixels/c.1: row 7 does not match its checksum. It shows a.png, frame 0, view 1."
    assert (sent.layer, sent.shard, sent.row, sent.source) == ("pixels", 1, 7, "a.png, frame 0, view 1")
