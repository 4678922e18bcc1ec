"""Define the exceptions of usjepa and the exit code that each ends a command with.

Every message says what happened, where (file, row, shard, field) and what to do about it.
Exit codes: 0 done, 1 failed, 2 wrong use, 3 damage found, 75 interrupted (run the command again).
"""

from __future__ import annotations


class UsjepaError(Exception):
    """Base of every error that usjepa raises on purpose; exit code 1 unless a subclass says otherwise."""

    exit_code: int = 1


class UsageError(UsjepaError):
    """The call is wrong (an argument, a path, a recipe); nothing was written."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe or an override has an unknown or repeated key, or a value that can't be used."""


class SourceError(UsjepaError):
    """A source file can't be read as the format that it claims, or changed since it was scanned."""


class NoImageError(SourceError):
    """A file of a format that is read, which is whole but holds no image: it is left out and told, never an error."""


class BlankError(UsjepaError):
    """A frame shows no echo, and the recipe says to stop there (`cache.on_blank`)."""


class TextError(UsjepaError):
    """A scan region keeps marks that look like text, and the recipe says to stop there (`cache.preprocess.text`)."""


class WholeFrameError(UsjepaError):
    """No scan region was found in a frame, and the recipe says to stop there (`cache.preprocess.whole`)."""


class TeacherError(UsjepaError):
    """A checkpoint can't be loaded whole, or the teacher's output must not be stored."""


class StoreError(UsjepaError):
    """Base of everything that can be wrong with a store."""


class FormatError(StoreError):
    """The path holds no store, or one in a format that this version does not read."""

    exit_code = 2


class NotSealedError(StoreError):
    """The store has no generation yet: its build has not finished."""

    exit_code = 2


class WithdrawnError(StoreError):
    """A generation holds rows that were removed from the store since."""

    exit_code = 2


class IdentityError(StoreError):
    """What is wanted differs from what is stored in a field that changes numbers."""

    exit_code = 2


class ClaimedError(StoreError):
    """Another process is building this part of the store."""


class RowError(StoreError):
    """Base of everything that can be wrong with rows of a shard; fields that are unknown or do not apply are None."""

    def __init__(self, message: str, *, layer: str | None = None, shard: int | None = None, row: int | None = None):
        super().__init__(message)
        self.layer, self.shard, self.row = layer, shard, row
        self.source: str | None = None
        """Which source, frame and view the row shows."""

    def show(self, source: str) -> None:
        """Add the source, frame and view of the row to field and message."""
        self.source = source
        self.args = (f"{self} It shows {source}.",)


class DamageError(RowError):
    """Stored bytes are not the bytes that were built."""

    exit_code = 3


class HoleError(RowError):
    """A row number has no data: it lies past the end of a segment, or its frame could not be read."""


class WriteError(StoreError):
    """The target can't take the bytes: full, read-only or gone. What was committed before is whole."""


class TrainingError(UsjepaError):
    """A run can't go on: its loss is not finite, or a checkpoint can't be read."""


class Interrupted(UsjepaError):
    """Work stopped on request (Ctrl-C, SIGTERM) at a safe point; the same command goes on from there."""

    exit_code = 75
