"""Every parser refuses hostile input with an error of our own tree; `make fuzz` does this 100,000 times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.processes.commands import run_python

if TYPE_CHECKING:
    from pathlib import Path


def test_three_hundred_hostile_inputs_give_only_our_own_errors_no_crash_no_hang(tmp_path: Path) -> None:
    command = ("-m", "fuzz", "--inputs", 300, "--seed", 11, "--keep", tmp_path)
    ended = run_python(*command, env={"OMP_NUM_THREADS": "1"})
    assert "0 findings" in ended.stdout.splitlines()[-1]
    # What is refused whatever it says hides every fault behind the first check.
    lines = {line[:24].strip(): line for line in ended.stdout.splitlines()}
    parsers = ("manifest", "commit record", "segment", "root zarr.json", "array zarr.json", "shard table and index")
    for target in parsers:
        assert "'accepted'" in lines[target], lines[target]
