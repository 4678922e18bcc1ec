"""Identities compare by value, field by field, and a file that is no JSON object of ours is damage."""

from __future__ import annotations

import pytest

from usjepa.cache.errors import DamageError
from usjepa.cache.identity import canonical, differences, digest_of, explain, parse_json


def test_equal_values_have_one_text_whatever_their_order() -> None:
    assert (
        canonical({"b": [1, 2.5], "a": "ü"}) == canonical({"a": "ü", "b": (1, 2.5)}) == b'{"a":"\\u00fc","b":[1,2.5]}'
    )
    assert digest_of({"a": 1}) == digest_of({"a": 1}) != digest_of({"a": 1.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})


def test_every_leaf_that_differs_is_named_with_both_values() -> None:
    stored = {"teacher": {"mean": [0.5, 0.5], "norm": True}, "precision": "fp16", "old": 1}
    wanted = {"teacher": {"mean": (0.5, 0.4), "norm": True}, "precision": "fp16", "new": 2}
    found = differences(stored, wanted)
    assert found == [("new", None, 2), ("old", 1, None), ("teacher.mean", [0.5, 0.5], [0.5, 0.4])]
    assert explain(found).splitlines()[2] == "  teacher.mean: [0.5, 0.5] | [0.5, 0.4]"
    assert differences(stored, {**stored, "teacher": {"mean": (0.5, 0.5), "norm": True}}) == []


@pytest.mark.parametrize(
    "data",
    [b"", b'{"a": 1', b"\xff\xfe", b"[1, 2]", b"null", b"[" * 100_000, b'{"a": ' + b"9" * 5_000 + b"}"],
    ids=["empty", "cut", "not text", "list", "null", "nested deeply", "a number of 5,000 digits"],
)
def test_what_is_no_object_of_ours_is_damage_and_names_the_file(data: bytes) -> None:
    with pytest.raises(DamageError, match=r"^s\.zarr/manifest\.json: "):
        parse_json(data, "s.zarr/manifest.json")
