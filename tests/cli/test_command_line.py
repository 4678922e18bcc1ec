"""Every command takes the same recipe options, and ends every known error with its message and exit code alone."""

from __future__ import annotations

import errno
import os
import resource
from typing import TYPE_CHECKING

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from tests.support.builds import SMALL, small
from tests.support.processes.commands import run_python
from tests.support.stores import write_store
from usjepa.cache import errors
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.cli import main as cache
from usjepa.cache.command_line import RAISE_TO, Command, allow_many_files, ends_well, recipe_options
from usjepa.evaluate.cli import main as evaluate
from usjepa.train.cli import main as train

if TYPE_CHECKING:
    from pathlib import Path


def ended(error: BaseException) -> Result:
    @click.command()
    @ends_well
    def failing() -> None:
        raise error

    return CliRunner().invoke(failing, [])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(errors.UsjepaError, 1, id="any fault is 1"),
        pytest.param(errors.SourceError, 1, id="an unreadable source is 1"),
        pytest.param(errors.WriteError, 1, id="a full disk is 1"),
        pytest.param(errors.UsageError, 2, id="wrong use is 2"),
        pytest.param(errors.RecipeError, 2, id="a wrong recipe is 2"),
        pytest.param(errors.IdentityError, 2, id="another identity is 2"),
        pytest.param(errors.NotSealedError, 2, id="an unsealed store is 2"),
        pytest.param(errors.DamageError, 3, id="damage is 3"),
    ],
)
def test_a_known_error_ends_with_its_message_and_code(error: type[errors.UsjepaError], code: int) -> None:
    result = ended(error("row 7 of shard 1: do this."))
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", "error: row 7 of shard 1: do this.\n")


def test_a_stop_at_a_safe_point_ends_with_75() -> None:
    result = ended(errors.Interrupted("stopped by SIGINT. Run it again."))
    assert (result.exit_code, result.stderr) == (75, "interrupted: stopped by SIGINT. Run it again.\n")


def test_ctrl_c_anywhere_ends_with_75_and_no_traceback() -> None:
    result = ended(KeyboardInterrupt())
    assert (result.exit_code, result.stderr) == (75, "interrupted: run the same command again to go on.\n")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        pytest.param(errno.ENOSPC, "Free some space and run the same command again.", id="full"),
        pytest.param(errno.EACCES, "Change its permissions, or give another place.", id="permission"),
        pytest.param(errno.EROFS, "It can't be written: give another place.", id="read-only"),
        pytest.param(errno.ENOTDIR, "A file lies where a folder should be. Check the path.", id="no folder"),
        pytest.param(errno.EIO, "See the system's log; run the same command again.", id="a disk that fails"),
    ],
)
def test_what_the_system_refuses_ends_with_the_file_the_reason_and_what_to_do(number: int, advice: str) -> None:
    reason = os.strerror(number)
    result = ended(OSError(number, reason, "/data/s.zarr/zarr.json"))
    assert (result.exit_code, result.stderr) == (1, f"error: /data/s.zarr/zarr.json: {reason}. {advice}\n")


def test_a_refusal_of_the_system_that_names_no_file_is_a_message_too() -> None:
    result = ended(OSError("cannot load library"))
    assert (result.exit_code, result.stderr) == (
        1, "error: cannot load library. See the system's log; run the same command again.\n"
    )  # fmt: skip


def test_an_array_that_does_not_fit_into_memory_ends_with_what_to_do() -> None:
    with pytest.raises(MemoryError) as caught:
        np.empty(1 << 50, np.uint8)
    result = ended(caught.value)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: out of memory (Unable to allocate 1.00 PiB")
    assert result.stderr.endswith(". Free some memory and run the same command again.\n")


def test_a_gpu_out_of_memory_ends_with_what_to_do() -> None:
    result = ended(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee documentation"))
    assert result.exit_code == 1
    assert result.stderr == (
        "error: CUDA out of memory. Tried to allocate 20.00 GiB. Set smaller batches (cache.teacher.batch_size, "
        "train.batch_size), free the GPU, or use --device cpu.\n"
    )


def test_a_cpu_out_of_memory_ends_with_what_to_do() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    result = ended(caught.value)
    assert result.exit_code == 1
    assert result.stderr == (
        "error: out of memory (tried to allocate 4503599627370496 bytes). Set smaller batches "
        "(cache.teacher.batch_size, train.batch_size), or free some memory.\n"
    )


def test_a_pipe_that_breaks_inside_the_work_does_not_end_it_in_silence() -> None:
    result = ended(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert (result.exit_code, result.stderr) == (
        1, "error: Broken pipe. See the system's log; run the same command again.\n"
    )  # fmt: skip


def test_a_store_that_is_a_file_ends_every_command_with_a_message(tmp_path: Path) -> None:
    file = tmp_path / "s.zarr"
    file.write_bytes(b"")
    for command in (["build", "--pipeline", "demo"], ["status"], ["verify"], ["stats"]):
        result = CliRunner().invoke(cache, [command[0], str(file), *command[1:]])
        assert result.exit_code in (1, 2), result.output
        assert isinstance(result.exception, SystemExit)
        assert "s.zarr" in result.stderr


def test_a_device_that_torch_does_not_know_is_refused_by_every_command_that_takes_one(tmp_path: Path) -> None:
    store = str(tmp_path / "s.zarr")
    build(store, small(), BuildRequest(teacher="random"))
    recipe = ["--pipeline", "demo", *(part for field in SMALL for part in ("--set", field))]
    for command in (["build", store], ["plan", "phantom", "--target", str(tmp_path)], ["audit", store]):
        result = CliRunner().invoke(cache, [*command, *recipe, "--teacher", "random", "--device", "gpu"])
        assert result.exit_code == 2, result.output
        assert "error: --device gpu: not usable here" in result.stderr


def test_a_bug_keeps_its_traceback() -> None:
    result = ended(ZeroDivisionError("a bug of ours"))
    assert isinstance(result.exception, ZeroDivisionError)


def test_every_error_is_of_the_one_tree_with_a_known_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 10
    for kind in kinds:
        assert issubclass(kind, errors.UsjepaError)
        assert kind.exit_code in (1, 2, 3, 75)
        assert kind.__doc__


def test_recipe_options_reach_the_command_in_order() -> None:
    @click.command()
    @recipe_options
    def show(pipeline: str | None, recipes: str | None, overrides: tuple[str, ...]) -> None:
        click.echo(f"{pipeline} {recipes} {overrides}")

    given = CliRunner().invoke(show, ["--set", "train.lr=1", "--pipeline", "demo", "--set", "train.lr=2"])
    assert given.output == "demo None ('train.lr=1', 'train.lr=2')\n"
    assert CliRunner().invoke(show, []).output == "None None ()\n"


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(cache.commands["build"], id="build"),
        pytest.param(cache.commands["scan"], id="scan"),
        pytest.param(train, id="train"),
        pytest.param(evaluate, id="evaluate"),
    ],
)
def test_all_commands_that_take_a_recipe_take_overrides(command: click.Command) -> None:
    options = {flag for parameter in command.params for flag in parameter.opts}
    assert {"--pipeline", "--recipes", "--set"} <= options


def test_a_command_raises_the_limit_of_open_files_as_far_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = resource.RLIM_INFINITY
    for soft, hard, wanted in (
        (1024, 4096, (4096, 4096)),
        (1024, 1_048_576, (RAISE_TO, 1_048_576)),
        (1024, endless, (RAISE_TO, endless)),
        (4096, 4096, None),
        (100_000, 1_048_576, None),
        (endless, endless, None),
    ):
        given: list[tuple[int, int]] = []
        monkeypatch.setattr(resource, "getrlimit", lambda _, limits=(soft, hard): limits)
        monkeypatch.setattr(resource, "setrlimit", lambda _, limits, given=given: given.append(limits))
        allow_many_files()
        assert given == ([wanted] if wanted else [])


@pytest.mark.parametrize("refusal", [ValueError("current limit exceeds maximum limit"), OSError(errno.EINVAL, "no")])
def test_a_system_that_does_not_raise_the_limit_is_taken_as_it_is(
    monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    asked = []

    def refuse(_: int, limits: tuple[int, int]) -> None:
        asked.append(limits)
        raise refusal

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    allow_many_files()
    assert asked == [(RAISE_TO, resource.RLIM_INFINITY)]


def test_the_command_line_runs_with_the_raised_limit(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 4)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    script = (
        "import resource, sys; _, hard = resource.getrlimit(resource.RLIMIT_NOFILE);"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard));"
        "from usjepa.cache.cli import main; main(sys.argv[1:], standalone_mode=False);"
        "print('limit', resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = run_python("-c", script, "status", tmp_path / "s")
    assert done.stdout.splitlines()[-1] == f"limit {RAISE_TO if hard < 0 else min(RAISE_TO, hard)}", done.stderr


@pytest.mark.parametrize(("command", "words", "message"), [
    (cache, ("build", "s", "--pipeline", "demo", "--part", ""), "error: --part: is given nothing"),
    (cache, ("build", "s", "--pipeline", "demo", "--source", " "), "error: --source: is given nothing"),
    (cache, ("verify", "s", "--sources", "--pipeline", "demo", "--source", ""), "error: --source: is given nothing"),
    (train, ("s", "r", "--pipeline", ""), "error: --pipeline: is given nothing"),
    (evaluate, ("r", "--task", "a", "--task", ""), "error: --task: is given nothing"),
    (cache, ("build", "s", "--pipeline", "demo", "--source", "a", "--source", "b"), "--source is given more than once"),
    (cache, ("build", "s", "--pipeline", "demo", "--pipeline=small"), "--pipeline is given more than once"),
    (cache, ("convert", "s", "--precision", "int8", "--precision", "int4"), "--precision is given more than once"),
    (train, ("s", "r", "--pipeline", "demo", "--pipeline", "small"), "--pipeline is given more than once"),
    (evaluate, ("r", "--task", "a", "-o", "b", "-oc"), "is given more than once, and takes one value"),
])  # fmt: skip
def test_an_option_without_text_or_given_twice_is_refused_and_none_is_left_out_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: click.Command, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command, list(words))
    assert result.exit_code == 2
    assert message in result.output
    assert list(tmp_path.iterdir()) == []


def test_every_command_refuses_an_option_that_is_given_twice() -> None:
    assert isinstance(cache, click.Group)
    assert all(isinstance(one, Command) for one in (*cache.commands.values(), train, evaluate))
