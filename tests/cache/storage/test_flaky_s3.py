"""A bucket behind a bad network: resets, short and wrong answers, stalls, stale lists, kills. Nothing wrong is kept."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import obstore
import pytest
from obstore.store import from_url

from tests.support.builds import small
from tests.support.processes import forked
from tests.support.processes.flaky_s3 import Proxy, Request, no_fault, s3_behind_proxy
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import Interrupted, StoreError, UsjepaError
from usjepa.cache.interrupt import graceful_interrupts
from usjepa.cache.storage import claims
from usjepa.cache.storage.objects import ObjectStorage
from usjepa.cache.storage.protocol import Found, Piece

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NAMES = (f"s3://frames/{number}" for number in itertools.count())
_BROKEN = ("500", "503", "reset before", "reset after", "cut")


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with s3_behind_proxy("frames") as started:
        yield started


@pytest.fixture
def url(proxy: Proxy) -> Iterator[str]:
    proxy.play(no_fault)
    yield next(_NAMES)
    proxy.play(no_fault)


def tree(url: str) -> dict[str, bytes]:
    """Return every object of a store."""
    found = [entry["path"] for batch in obstore.list(from_url(url)) for entry in batch]
    return {path: bytes(obstore.get(from_url(url), path).bytes()) for path in found}


def first(fault: str) -> Callable[[Request], str]:
    """Disturb the first request alone."""
    return lambda request: fault if request.number == 0 else ""


@pytest.mark.parametrize("fault", _BROKEN)
def test_a_request_whose_connection_breaks_once_is_made_again(proxy: Proxy, url: str, fault: str) -> None:
    storage = ObjectStorage(url)
    storage.publish("a/b.json", b"0123456789")
    calls: dict[str, tuple[Callable[[], object], object]] = {
        "read": (lambda: storage.read("a/b.json"), b"0123456789"),
        "range": (lambda: storage.read_range("a/b.json", 2, 3), b"234"),
        "size": (lambda: storage.size("a/b.json"), 10),
        "names": (lambda: storage.names("a"), ["b.json"]),
        "folders": (lambda: storage.folders(""), ["a"]),
        "publish": (lambda: storage.publish("a/b.json", b"0123456789"), None),
        "create": (lambda: storage.create("claim.json", b"mine"), True),
        "refused": (lambda: storage.create("claim.json", b"yours"), False),
        "delete": (lambda: storage.delete("claim.json"), None),
    }
    for name, (call, wanted) in calls.items():
        proxy.play(first(fault))
        assert call() == wanted, name
        assert proxy.done == [fault]
    assert storage.size("claim.json") is None


def test_an_object_or_its_end_that_comes_empty_is_asked_for_again_and_one_that_is_empty_stays_so(
    proxy: Proxy, url: str
) -> None:
    storage = ObjectStorage(url)
    storage.publish("a", b"0123456789")
    storage.publish("b", b"")
    found: dict[int, Found | None] = {}
    proxy.play(first("empty"))
    assert storage.read("a") == b"0123456789"
    proxy.play(first("empty"))
    storage.read_many([Piece("a")], found.__setitem__)
    assert (found, storage.read("b")) == ({0: Found([b"0123456789"], 10)}, b"")
    for fault in ("empty", "short"):
        proxy.play(first(fault))
        storage.read_many([Piece("a", end=4)], found.__setitem__)
        assert found == {0: Found([b"6789"], 10)}


def test_a_server_that_is_busy_for_seconds_is_waited_for_ever_longer(proxy: Proxy, url: str) -> None:
    storage = ObjectStorage(url)
    storage.publish("a", b"0123456789")
    until = time.monotonic() + 4
    proxy.play(lambda request: "503" if request.number < 2 or time.monotonic() < until else "")
    assert storage.read("a") == b"0123456789"
    assert len(proxy.done) >= 2


def test_a_claim_that_is_read_in_part_is_read_again(proxy: Proxy, url: str) -> None:
    storage = ObjectStorage(url)
    with claims.hold_claim(storage, "build", steal=False) as claim:
        proxy.play(first("short"))
        claim.check()
    assert storage.names("claims") == []


def test_ranges_that_are_cut_short_are_asked_for_again_and_end_with_a_message(proxy: Proxy, url: str) -> None:
    storage = ObjectStorage(url)
    storage.publish("a", bytes(range(100)))
    ranges = [(0, 10), (80, 10)]
    proxy.play(first("short"))
    assert storage.read_ranges("a", ranges) == [bytes(range(10)), bytes(range(80, 90))]
    proxy.play(lambda _: "short")
    with pytest.raises(StoreError, match=r"/a: can't be read \(range"):
        storage.read_ranges("a", ranges)


def test_a_stop_request_ends_a_wait_for_an_answer_that_never_comes(
    proxy: Proxy, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usjepa.cache.storage.waiting._PATIENCE_S", 0.2)
    storage = ObjectStorage(url)
    proxy.play(lambda _: "no answer")
    for call in (lambda: storage.read("a"), lambda: storage.publish("a", b"x"), lambda: storage.names("a")):
        with graceful_interrupts() as stop:
            stop.request(signal.SIGTERM)
            with pytest.raises(Interrupted):
                call()


def built(url: str) -> str:
    """Build a small store; return the error that ended it, if any."""
    try:
        build(url, small(), BuildRequest(teacher="random"))
    except UsjepaError as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.slow
def test_a_build_through_a_network_that_breaks_every_eighth_request_is_byte_for_byte_the_same(proxy: Proxy) -> None:
    proxy.play(no_fault)
    assert built("s3://frames/whole") == ""
    whole = tree("s3://frames/whole")
    faults = itertools.cycle(("reset before", "reset after", "cut"))
    proxy.play(lambda request: next(faults) if request.number % 8 == 3 else "")
    assert built("s3://frames/broken") == ""
    assert len(proxy.done) > 10
    proxy.play(no_fault)
    assert tree("s3://frames/broken") == whole


def _build_in_a_bucket(url: str, endpoint: str) -> None:
    # The server that starts such children may have been started before this one.
    os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    build(url, small(), BuildRequest(teacher="random"))


def _killed_at(proxy: Proxy, url: str, number: int, when: str) -> bool:
    """Kill a build at its n-th PUT; return whether it made so many."""
    puts, proxy.victim = itertools.count(), None
    proxy.play(lambda request: f"kill {when}" if request.method == "PUT" and next(puts) == number else "")
    process = forked.start(_build_in_a_bucket, url, os.environ["AWS_ENDPOINT_URL"])
    assert process.pid is not None
    proxy.victim = process.pid
    process.join()
    proxy.play(no_fault)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("start", range(4))
def test_a_build_killed_at_any_put_goes_on_to_the_same_bytes(proxy: Proxy, start: int) -> None:
    proxy.play(no_fault)
    assert built(f"s3://frames/undisturbed-{start}") == ""
    undisturbed, killed = tree(f"s3://frames/undisturbed-{start}"), 0
    for number, when in ((number, when) for number in range(start, 200, 4) for when in ("before", "after")):
        url = f"s3://frames/killed-{number}-{when}"
        if not _killed_at(proxy, url, number, when):
            break
        killed += 1
        assert built(url) == ""
        assert tree(url) == undisturbed, (number, when)
    assert killed >= 12


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fault", ["short", "wrong", "empty", "stale", *_BROKEN])
def test_whatever_a_server_answers_the_store_in_the_end_is_byte_for_byte_the_same(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(claims, "TAKEOVER_S", 1.0)  # the claim of a build that failed in this very process
    proxy.play(no_fault)
    assert built("s3://frames/truth") == ""
    truth, rng, name = tree("s3://frames/truth"), random.Random(fault), next(_NAMES)

    def faulty(request: Request) -> bool:
        return request.lists if fault == "stale" else rng.random() < 0.15

    reading = fault in ("short", "wrong", "empty", "cut")
    proxy.play(lambda request: fault if (request.method == "GET" or not reading) and faulty(request) else "")
    for _ in range(6):
        built(name)  # may end with an error of ours
    assert proxy.done
    proxy.play(no_fault)
    assert built(name) == ""
    assert tree(name) == truth
