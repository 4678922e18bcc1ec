"""Whatever happens to a store, in whatever order: each read returns exactly what was built, or raises.

A hypothesis state machine builds, kills, injures, verifies, repairs and seals a real store of three shards and three
layers, and after every step compares every row with a model: a dict of what an undisturbed build gives.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.support.builds import build_and_die, small
from tests.support.files.damage import INJURIES
from tests.support.processes import forked
from usjepa.cache.building.build import build, seal
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import DamageError, FormatError, NotSealedError, UsjepaError
from usjepa.cache.reading.store import open_store
from usjepa.cache.upkeep.repair import repair
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SHARDS = ("pixels/c.{}.0.0.0", "regions/c.{}.0", "latents/demo/c.{}.0.0")
FILES = (
    "manifest.json", "zarr.json", "pixels/zarr.json", "latents/demo/zarr.json", "segments/000001/segment.json",
    "segments/000001/rows.parquet", "segments/000001/sources.parquet", "commits/pixels/000001.json",
    "commits/latents/demo/000000.json", "manifests/000001.json",
)  # fmt: skip


class Truth:
    """What an undisturbed build gives, and a store of another seed for stale shards."""

    def __init__(self, folder: Path) -> None:
        build(str(folder / "right"), small(), BuildRequest(teacher="random"))
        build(str(folder / "other"), small("cache.phantom.seed=5"), BuildRequest(teacher="random"))
        self.other = folder / "other"
        self.right = folder / "right"
        store = open_store(self.right)
        self.rows = [int(row) for row in store.rows]
        self.content = {row: _content(store.read([row]).arrays) for row in self.rows}


def _content(arrays: dict[str, NDArray[Any]]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


# No generation, none that reads, or no store at all: a build killed early enough leaves each of these.
NOTHING_TO_CHECK = (NotSealedError, DamageError, FormatError)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return Truth(tmp_path_factory.mktemp("truth"))


def _machine(truth: Truth) -> type[RuleBasedStateMachine]:
    class Life(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.folder = Path(tempfile.mkdtemp(prefix="usjepa-life-"))
            self.root = self.folder / "s"

        def teardown(self) -> None:
            """End with the store whole again: nothing that happened may be beyond mending."""
            try:
                self._make_whole()
                assert self._exact_rows() == len(truth.rows)
            finally:
                shutil.rmtree(self.folder)

        @initialize(finished=st.booleans())
        def begin(self, finished: bool) -> None:
            if finished:
                shutil.copytree(truth.right, self.root)

        @rule(step=st.integers(10, 80))
        def build_and_be_killed(self, step: int) -> None:
            forked.run(build_and_die, str(self.root), step, stderr=self.folder / "log")

        @rule()
        def resume(self) -> None:
            # A build never builds over descriptions that are damaged: `repair` mends those.
            with contextlib.suppress(DamageError, FormatError):
                build(str(self.root), small(), BuildRequest(teacher="random"))

        @rule(layer=st.sampled_from(SHARDS), shard=st.integers(0, 2), injury=st.sampled_from(sorted(INJURIES)))
        def injure(self, layer: str, shard: int, injury: str) -> None:
            for path in self._existing(layer.format(shard)):
                if path.stat().st_size > 2000 or injury in ("deleted", "emptied", "cut in half", "zeroed"):
                    # The neighbour to swap with may be gone already.
                    with contextlib.suppress(FileNotFoundError, IndexError):
                        INJURIES[injury](path)

        @rule(layer=st.sampled_from(SHARDS), shard=st.integers(0, 2))
        def bring_back_a_stale_shard(self, layer: str, shard: int) -> None:
            for path in self._existing(layer.format(shard)):
                path.write_bytes((truth.other / layer.format(shard)).read_bytes())

        @rule(name=st.sampled_from(FILES), how=st.sampled_from(["deleted", "emptied", "flipped"]))
        def injure_a_description(self, name: str, how: str) -> None:
            for path in self._existing(name):
                data = path.read_bytes()
                if how == "deleted":
                    path.unlink()
                elif data:
                    middle = len(data) // 2
                    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
                    path.write_bytes(b"" if how == "emptied" else flipped)

        @rule()
        def seal(self) -> None:
            with contextlib.suppress(UsjepaError):  # not all built, or descriptions damaged
                seal(str(self.root))

        @rule()
        def verify(self) -> None:
            try:
                damages = verify(str(self.root)).damages
            except NOTHING_TO_CHECK:
                return
            if not damages:
                assert self._exact_rows() == len(truth.rows), "verify passed a store that does not read"

        @rule()
        def mend(self) -> None:
            try:
                report = repair(str(self.root), small(), teacher="random")
            except NOTHING_TO_CHECK:
                return
            assert report.left == []
            assert verify(str(self.root)).damages == []
            assert self._exact_rows() == len(truth.rows)

        @invariant()
        def each_read_is_exact_or_raises(self) -> None:
            self._exact_rows()

        def _existing(self, name: str) -> Iterator[Path]:
            if (self.root / name).is_file():
                yield self.root / name

        def _exact_rows(self) -> int:
            """Return how many rows read exactly; any row that reads otherwise fails."""
            try:
                store = open_store(self.root, allow_partial=True)
                rows = {int(row) for row in store.rows}
            except (UsjepaError, FileNotFoundError):
                return 0
            exact = 0
            for row in sorted(rows):
                try:
                    content = _content(store.read([row]).arrays)
                except UsjepaError:
                    continue
                expected = truth.content[row]
                assert all(content[name] == expected[name] for name in content), f"row {row} reads as something else"
                exact += set(content) == set(expected)
            store.close()
            return exact

        def _make_whole(self) -> None:
            try:
                repair(str(self.root), small(), teacher="random")
            except NOTHING_TO_CHECK:
                self._start_over()
            build(str(self.root), small(), BuildRequest(teacher="random"))
            repair(str(self.root), small(), teacher="random")

        def _start_over(self) -> None:
            """Descriptions of a store that was never sealed have nothing they could be mended from."""
            try:
                build(str(self.root), small(), BuildRequest(teacher="random"))
            except (DamageError, FormatError):
                shutil.rmtree(self.root)

    return Life


def _run(truth: Truth, examples: int, steps: int) -> None:
    profile = settings(
        max_examples=examples, stateful_step_count=steps, suppress_health_check=list(HealthCheck),
        print_blob=True,
    )  # fmt: skip
    run_state_machine_as_test(_machine(truth), settings=profile)


def test_a_store_reads_exactly_what_was_built_or_raises_whatever_happens_to_it(truth: Truth) -> None:
    _run(truth, examples=6, steps=10)


@pytest.mark.slow
@pytest.mark.timeout(3600, method="thread")
def test_a_store_survives_hundreds_of_histories(truth: Truth) -> None:
    _run(truth, examples=150, steps=20)
