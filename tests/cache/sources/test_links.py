"""Links out of a source are refused with a remedy that works, and followed where that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.support.files.decoded import listed, read_all
from tests.support.files.volumes import echo
from usjepa.cache.errors import SourceError, UsageError
from usjepa.cache.recipes.cache import CacheSettings

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = CacheSettings()
FOLLOWED = CacheSettings(follow_links=True)


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """Return a snapshot in a cache of Hugging Face: links to blobs beside it, and one to a folder."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0a1b"
    (snapshot / "cyst").mkdir(parents=True)
    blobs.mkdir()
    Image.fromarray(echo(1)[0]).save(blobs / "ffee", "PNG")
    (snapshot / "cyst" / "a.png").symlink_to("../../../blobs/ffee")
    (tmp_path / "more").mkdir()
    Image.fromarray(echo(1, seed=1)[0]).save(tmp_path / "more" / "b.png")
    return snapshot


def test_a_link_out_of_the_source_is_refused_with_the_option_that_follows_it(hub: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.png: refused: a symbolic link leads it out .* --follow-links follows"):
        listed(hub, SETTINGS)


def test_links_are_followed_where_that_is_asked_for(hub: Path) -> None:
    (hub / "more").symlink_to("../../more")
    listing = listed(hub, FOLLOWED)
    assert [entry.path for entry in listing.entries] == ["cyst/a.png", "more/b.png"]
    assert len(read_all(listing, FOLLOWED)) == 2
    (hub / "manifest.csv").write_text("path,patient\ncyst/a.png,p1\n")
    assert [entry.group for entry in listed(hub, FOLLOWED).entries] == ["p1"]


def test_a_link_to_a_folder_that_is_not_followed_is_told(hub: Path) -> None:
    (hub / "cyst" / "a.png").unlink()
    Image.fromarray(echo(1)[0]).save(hub / "cyst" / "a.png")
    (hub / "more").symlink_to("cyst")
    listing = listed(hub, SETTINGS)
    assert [entry.path for entry in listing.entries] == ["cyst/a.png"]
    assert "links to folders are not followed: 1 (such as more). --follow-links follows them." in listing.notes
    (hub / "out").symlink_to("../../more")
    with pytest.raises(UsageError, match=r"out: refused: a symbolic link leads it out .* --follow-links follows"):
        listed(hub, SETTINGS)


def test_a_circle_of_links_is_refused(hub: Path) -> None:
    (hub / "cyst" / "up").symlink_to("..")
    with pytest.raises(UsageError, match="a link to a folder that it lies in"):
        listed(hub, FOLLOWED)


def test_a_link_to_what_was_never_fetched_says_so(hub: Path) -> None:
    (hub / "cyst" / "c.png").symlink_to("../../../blobs/gone")
    with pytest.raises(SourceError, match=r"c\.png: .*a link to a file that is not there; fetch it first"):
        read_all(listed(hub, FOLLOWED), FOLLOWED)
