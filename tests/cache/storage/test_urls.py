"""A URL names the one place that its text says, or is refused before any request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import pytest
from obstore.store import from_url

from tests.support.processes.flaky_s3 import s3_behind_proxy
from tests.support.stores import write_store
from usjepa.cache.converting.export import export
from usjepa.cache.copying.copy import copy_store
from usjepa.cache.errors import UsageError
from usjepa.cache.planning.plan import plan
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.storage.durable import check_output
from usjepa.cache.storage.location import open_storage
from usjepa.cache.storage.objects import ObjectStorage
from usjepa.cache.storage.urls import is_url, shown
from usjepa.cache.thinning.remove import remove
from usjepa.cache.thinning.withdrawal import Choice
from usjepa.train.run.holding import refuse_odd_place

if TYPE_CHECKING:
    from collections.abc import Iterator

REFUSED = {
    "s3://b/a#1": "'#'",
    "s3://b/a?x=1": r"'\?'",
    "https://h/a?x=1": r"'\?'",
    "https://h/a#1": "'#'",
    "s3://b/a%20b": "'%'",
    "s3://b/a%23b": "'%'",
    "s3://b/a/%2e%2e/c": "'%'",
    "s3://b/a%zz": "'%'",
    "https://h/a%2Fb": "'%'",
    "s3://b%2fa/x": "bucket's name",
    "https://h/a\\b": r"'\\\\'",
    "s3://b//a": "'//'",
    "s3://b/a//": "'//'",
    "s3://b/a/../c": r"'/\.\./'",
    "s3://b/./a": r"'/\./'",
    "gs://b/a/..": r"'/\.\./'",
    "https://h/a/../b": r"'/\.\./'",
    "s3://b/a\tb": r"'\\t'",
    "s3://b/a\nb": r"'\\n'",
    "s3://b/a\u200bb": r"'\\u200b'",
    "s3://b/a\u00a0": r"'\\xa0'",
    "s3://b/a ": "ends with a space",
    " s3://b/a": "not a URL that can be opened",
    "s3://b:9000/a": "AWS_ENDPOINT_URL",
    "s3://b\u00e9/a": "bucket's name",
    "s3:///a": "bucket's name",
    "s3://": "bucket's name",
    "s3:/b/a": "not a URL that can be opened",
    "s3:b/a": "not a URL that can be opened",
    "S3:/b/a": "not a URL that can be opened",
    "gcs://b/a": "not a URL that can be opened",
    "ftp://h/a": "not a URL that can be opened",
    "folder/a://b": "not a URL that can be opened",
    "memory://a/b": "bucket's name",
    "file://host/a": "without a host",
    "file:///a%00": "%",
    "file:///a%zz": "%",
    "file:///a%2Fb": "%",
}
WITH_LOGINS = (
    "s3://me:SECRET@b/a",
    "s3://SECRET@b/a",
    "s3://me:x/SECRET@b/a",
    "s3://me:x?SECRET@b/a",
    "s3://me:x#SECRET@b/a",
    "s3://me:x@SECRET@b/a",
    "S3:/me:SECRET@b/a",
    "az://SECRET@c/a",
    "abfs://c:SECRET@acct.dfs.core.windows.net/a",
    "https://me:SECRET@h/a",
    "https://h/a?sig=SECRET",
    "https://acct.blob.core.windows.net/c/a?sig=SECRET",
    "file://me:SECRET@h/a",
    "ftp://me:SECRET@h/a",
)
KEYS = (
    "a",
    "a b",
    "a\u00e9",
    "ae\u0301",
    "a+b",
    "a=b@c:d",
    "a*b|c",
    "a~^`{}<>[]",
    "a\"b'",
    "a/.../b",
    "A",
    "a&b;c,d!$()",
)
SPELLINGS = {
    "S3://b/a": "s3://b/a",
    "s3://b/a/": "s3://b/a",
    "s3://B/a": "s3://B/a",
    "s3://b/": "s3://b",
    "HTTPS://h:8/a/": "https://h:8/a",
    "memory:///a/": "memory:///a",
    "memory:///": "memory:///",
}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_behind_proxy("bkt"):
        yield "s3://bkt"


@pytest.mark.parametrize("url", REFUSED)
def test_a_url_that_could_name_another_place_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=REFUSED[url]):
        open_storage(url)


@pytest.mark.parametrize("url", WITH_LOGINS)
def test_a_login_in_a_url_is_refused_and_never_shown(url: str, tmp_path: Path) -> None:
    recipe = load_recipe("demo")
    calls = (
        lambda: open_storage(url),
        lambda: export(str(tmp_path), url, "npy"),
        lambda: refuse_odd_place(url),
        lambda: plan(None, recipe, target=url),
        lambda: list_source(url, recipe.cache),
        lambda: check_output(Path(url)),
    )
    for call in calls:
        with pytest.raises(UsageError) as caught:
            call()
        assert "SECRET" not in str(caught.value)


def test_what_is_no_login_is_shown() -> None:
    for text in ("s3://b/a@2", "s3://b/x:y@z", "abfs://c@acct.dfs.core.windows.net/a", "/data/a?b@c", "https://h:9/a"):
        assert shown(text) == text


@pytest.mark.parametrize("key", KEYS)
def test_every_other_character_is_one_of_the_key(bucket: str, key: str) -> None:
    ObjectStorage(f"{bucket}/{key}").publish("x", b"1")
    root = from_url(bucket)
    assert bytes(obstore.get(root, f"{key}/x").bytes()) == b"1"
    obstore.delete(root, f"{key}/x")
    assert obstore.list(root).collect() == []


@pytest.mark.parametrize("url", SPELLINGS)
def test_a_place_has_one_spelling(url: str) -> None:
    assert ObjectStorage(url).url == SPELLINGS[url]


@pytest.mark.parametrize(("url", "path"), [("a%20b", "a b"), ("a#1", "a#1"), ("a?x", "a?x"), ("a%FF", "a\udcff")])
def test_a_file_url_names_the_bytes_that_it_says(tmp_path: Path, url: str, path: str) -> None:
    assert open_storage(f"file://{tmp_path}/{url}").url == f"{tmp_path}/{path}"


def test_what_is_a_url_is_decided_by_its_beginning() -> None:
    assert all(
        is_url(text) for text in ("s3://b", "S3:/b", "gs:b", "file:/a", "FILE:///a", "x://y", "xy:/z", "a/b://c")
    )
    assert not any(is_url(text) for text in ("/a", "a:b", "./s3:/b", "phantom", "s3/b", "a::b"))


def test_no_store_is_read_written_or_removed_from_in_place_of_another(bucket: str, tmp_path: Path) -> None:
    write_store(tmp_path / "one", rows=8)
    copy_store(str(tmp_path / "one"), f"{bucket}/run")
    calls = (
        lambda: open_store(f"{bucket}/run#2"),
        lambda: copy_store(str(tmp_path / "one"), f"{bucket}/new#1"),
        lambda: remove(f"{bucket}/run#test", Choice(groups=("group-0",))),
        lambda: copy_store(f"{bucket}/run", f"{bucket}/run#copy", resume=True),
    )
    for call in calls:
        with pytest.raises(UsageError, match="'#'"):
            call()
    assert open_storage(bucket).folders("") == ["run"]
    assert len(open_store(f"{bucket}/run")) == 8


@pytest.mark.parametrize(("one", "other"), [("s3://bkt/run", "s3a://bkt/run/"), ("S3A://bkt/run", "s3://bkt/run/in"),
    ("az://c/run", "abfs://c@acct.dfs.core.windows.net/run")])  # fmt: skip
def test_a_copy_onto_itself_by_another_spelling_is_refused(
    one: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acct")
    with pytest.raises(UsageError, match="or the other way round"):
        copy_store(one, other, resume=True)
