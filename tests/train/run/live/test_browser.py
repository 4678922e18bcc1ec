"""Claims about a run's page in a browser: nothing fails or is cut off, it loads itself again, and says its age."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes.browser import Seen, find_browser, look
from tests.support.processes.layout import DESKTOP, PHONE, SCRIPTS
from tests.train.run.live.test_page import about, history
from usjepa.train.record.history import History
from usjepa.train.run.live.page import FINISHED, RUNNING, Moment, render

if TYPE_CHECKING:
    from pathlib import Path

SAID = "[document.getElementById('state').textContent, document.getElementById('age').textContent]"
LONG = (
    "a rather long name of a run, of a folder that somebody named after everything in it_and_without_any_spaces_at_all"
)


def seen(folder: Path, text: str, width: int, scripts: list[str], loads: int = 1) -> Seen:
    find_browser()
    place = folder / "index.html"
    place.write_text(text)
    return look(place, scripts, width, dark=width == PHONE, loads=loads)


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_a_page_fits_and_asks_for_nothing(tmp_path: Path, width: int) -> None:
    measured: dict[str, Any] = {LONG.replace(" ", "_"): 0.5}
    made = history(3, targets=("usfm", "dinov3"), **measured)
    text = render(about(name=LONG), made, Moment(RUNNING, time.time(), 5000.0))
    one = seen(tmp_path, text, width, [*SCRIPTS, SAID])
    overflow, _, cut_off, overlap, smallest, (state, age) = one.answers
    assert one.trouble == []
    assert one.requested == [one.requested[0]]
    assert (overflow, cut_off, overlap) == (0, [], [])
    assert smallest >= 8.5
    assert state == "running"
    assert re.fullmatch(r"written \d+ s ago", age)


def test_a_page_without_news_says_how_old_it_is(tmp_path: Path) -> None:
    text = render(about(), history(2), Moment(RUNNING, time.time() - 7300, 5000.0))
    one = seen(tmp_path, text, DESKTOP, [SAID, "document.getElementById('left') !== null"])
    (state, age), left = one.answers
    assert one.trouble == []
    assert state == "no news"
    assert age.startswith("written 2 h ago: the run was killed, or hangs")
    assert not left


def test_a_finished_page_may_be_old(tmp_path: Path) -> None:
    text = render(about(2), history(2), Moment(FINISHED, time.time() - 400_000))
    assert seen(tmp_path, text, PHONE, [SAID]).answers == [["finished", "written 5 days ago"]]


def test_a_page_loads_itself_again(tmp_path: Path) -> None:
    text = render(about(), History(), Moment(RUNNING, time.time())).replace('content="20"', 'content="1"')
    one = seen(tmp_path, text, DESKTOP, [], loads=3)
    assert one.trouble == []
    assert len(one.requested) >= 3
    assert len(set(one.requested)) == 1
