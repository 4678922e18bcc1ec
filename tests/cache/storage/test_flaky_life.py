"""Copy, convert, remove, collect, export and read through a bad network: the result of a good one, or a message."""

from __future__ import annotations

import itertools
import random
import shutil
from typing import TYPE_CHECKING

import numpy as np
import obstore
import pytest
from obstore.store import from_url

from tests.support.builds import tree
from tests.support.processes.flaky_s3 import Proxy, Request, no_fault, s3_behind_proxy
from tests.support.stores import write_store
from usjepa.cache.converting.convert import convert
from usjepa.cache.converting.export import export
from usjepa.cache.copying.copy import copy_store
from usjepa.cache.errors import StoreError, UsjepaError
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage import claims
from usjepa.cache.storage.objects import ObjectStorage
from usjepa.cache.storage.protocol import Found, Piece
from usjepa.cache.thinning.collect import collect
from usjepa.cache.thinning.remove import remove
from usjepa.cache.thinning.withdrawal import Choice
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROWS = 10
_BROKEN = ("500", "503", "reset before", "reset after", "cut")
_numbers = itertools.count()
Files = dict[str, bytes]


def _read(store: str, out: str) -> None:
    opened = open_store(store)
    batch = opened.read(np.random.default_rng(0).integers(0, ROWS, 3 * ROWS), layers=list(opened.layers))
    for name, array in batch.arrays.items():
        np.save(f"{out}/{name.replace('/', '-')}.npy", array)


COMMANDS: dict[str, Callable[[str, str], object]] = {
    "copy into a bucket": lambda store, out: copy_store(store, out),
    "copy out of a bucket": lambda store, out: copy_store(store, out),
    "convert": lambda store, _: convert(store, "int8", "toy", "other"),
    "remove": lambda store, _: remove(store, Choice(groups=("group-1",))),
    "gc": lambda store, _: collect(store),
    "export": lambda store, out: export(store, out, "npy"),
    "read": _read,
}
"""What is done with a store, and where its result goes."""
_INTO, _OUT_OF = ("copy into a bucket",), ("copy out of a bucket", "export", "read")


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with s3_behind_proxy("frames") as started:
        yield started


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of two generations and two layers of latents."""
    root = tmp_path_factory.mktemp("life") / "s"
    write_store(root, ROWS)
    convert(str(root), "int8")
    return root


def bucket_tree(url: str) -> Files:
    found = [entry["path"] for batch in obstore.list(from_url(url)) for entry in batch]
    return {path: bytes(obstore.get(from_url(url), path).bytes()) for path in found}


class Trial:
    """A command that is tried on a store in a bucket."""

    def __init__(self, proxy: Proxy, store: Path, folder: Path, command: str) -> None:
        self.proxy, self.command = proxy, command
        self.url, self.out = f"s3://frames/{next(_numbers)}", folder / "out"
        self._local = store
        proxy.play(no_fault)
        if command not in _INTO:
            for name, data in tree(store).items():
                obstore.put(from_url(self.url), name, data)
        if command == "read":
            self.out.mkdir()
        self.wanted = self._undisturbed(folder)

    def _undisturbed(self, folder: Path) -> Files:
        """Return what the command gives where files are files."""
        here, out = folder / "here", folder / "wanted"
        shutil.copytree(self._local, here)
        if self.command == "read":
            out.mkdir()
        COMMANDS[self.command](str(here), str(out))
        return tree(out if out.exists() else here)

    def run(self) -> str:
        """Run the command; return the message that it ended with, if any."""
        store, out = (str(self._local), self.url) if self.command in _INTO else (self.url, str(self.out))
        try:
            COMMANDS[self.command](store, out)
        except UsjepaError as error:
            return str(error)
        return ""

    def result(self) -> Files:
        """Return what lies there in the end."""
        self.proxy.play(no_fault)
        return tree(self.out) if self.command in _OUT_OF else bucket_tree(self.url)


@pytest.mark.parametrize(
    "command", ["convert", *(pytest.param(one, marks=pytest.mark.slow) for one in COMMANDS if one != "convert")]
)
def test_a_network_that_breaks_every_fifth_request_changes_nothing(
    proxy: Proxy, store: Path, tmp_path: Path, command: str
) -> None:
    trial, faults = Trial(proxy, store, tmp_path, command), itertools.cycle(_BROKEN)
    disturbed = set[tuple[str, str, str]]()

    def every_fifth(request: Request) -> str:
        asked = (request.method, request.path, request.query)
        if request.number % 5 != 3 or asked in disturbed:  # one might be disturbed as often as it is made again
            return ""
        disturbed.add(asked)
        return next(faults)

    proxy.play(every_fifth)
    assert trial.run() == ""
    assert proxy.done
    assert trial.result() == trial.wanted


@pytest.mark.parametrize("command", ["copy into a bucket", "convert", "remove", "read"])
@pytest.mark.slow
def test_credentials_that_expire_are_named_and_once_they_are_renewed_the_command_goes_on(
    proxy: Proxy, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(claims, "TAKEOVER_S", 0.5)  # this very process still lives
    trial = Trial(proxy, store, tmp_path, command)
    proxy.play(lambda request: "403" if request.number >= 9 else "")
    message = trial.run()
    assert "credentials" in message or "can't be removed" in message
    proxy.play(no_fault)
    assert trial.run() == ""
    assert trial.result() == trial.wanted


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["short", "wrong", "empty", "stale", *_BROKEN])
@pytest.mark.parametrize("command", COMMANDS)
def test_whatever_a_server_answers_the_end_is_right_or_a_message(
    proxy: Proxy, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, fault: str
) -> None:
    monkeypatch.setattr(claims, "TAKEOVER_S", 0.5)
    trial, rng = Trial(proxy, store, tmp_path, command), random.Random(fault)

    def faulty(request: Request) -> bool:
        return request.lists if fault == "stale" else rng.random() < 0.15

    reading = fault in ("short", "wrong", "empty", "cut")
    proxy.play(lambda request: fault if (request.method == "GET" or not reading) and faulty(request) else "")
    ended = [trial.run() for _ in range(4)]
    assert proxy.done
    if "" in ended and command in _OUT_OF:
        assert trial.result() == trial.wanted
    proxy.play(no_fault)
    trial.run()  # what it had done already may be refused: a removal of who has withdrawn
    assert trial.result() == trial.wanted
    if command not in _OUT_OF:
        assert verify(trial.url).damages == []


@pytest.mark.slow
def test_an_answer_that_does_not_come_is_asked_for_again(proxy: Proxy, store: Path, tmp_path: Path) -> None:
    trial = Trial(proxy, store, tmp_path, "read")
    proxy.play(lambda request: "no answer" if request.number == 6 else "")
    assert trial.run() == ""
    assert proxy.done == ["no answer"]
    assert trial.result() == trial.wanted


def test_of_many_requests_the_first_that_fails_for_good_ends_them_with_a_message(proxy: Proxy) -> None:
    proxy.play(no_fault)
    storage = ObjectStorage(f"s3://frames/{next(_numbers)}")
    names = [f"{number}.json" for number in range(30)]
    for name in names:
        storage.publish(name, name.encode())
    found: dict[int, Found | None] = {}
    storage.read_many([Piece(name) for name in (*names, "none.json")], found.__setitem__)
    assert [found[number] for number in range(31)] == [*(Found([n.encode()], len(n)) for n in names), None]
    proxy.play(lambda request: "403" if request.path.endswith("/7.json") else "")
    with pytest.raises(StoreError, match=r"/7\.json: can't be read .*credentials"):
        storage.read_many([Piece(name) for name in names], found.__setitem__)
