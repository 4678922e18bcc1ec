"""Every command takes the same recipe options, and ends every known error with its message and exit code alone."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner, Result

from usjepa.cache import errors
from usjepa.cache.cli import main as cache
from usjepa.cache.command_line import ends_well, recipe_options
from usjepa.evaluate.cli import main as evaluate
from usjepa.train.cli import main as train


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
