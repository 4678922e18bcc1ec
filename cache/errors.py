"""The exceptions of usjepa: one small tree, each with the exit code its CLI ends with.

Every message says what happened, where (file, row, shard, field) and what to do about it.
Exit codes: 0 done, 1 a fault, 2 wrong use, 3 damage found, 75 interrupted (run again).
"""

from __future__ import annotations


class UsjepaError(Exception):
    """Base of every error that usjepa raises on purpose; exit code 1 unless a subclass says otherwise."""

    exit_code: int = 1


class UsageError(UsjepaError):
    """The call itself is wrong: an argument, a path, a recipe; nothing was read or written."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe or an override names an unknown key, repeats one, or holds a value of the wrong kind."""


class SourceError(UsjepaError):
    """A source file can't be read as what it claims to be, or changed since it was scanned."""


class TeacherError(UsjepaError):
    """A checkpoint can't be loaded whole, or the teacher gives something that must not be stored."""


class StoreError(UsjepaError):
    """Base of what can be wrong with a store."""


class FormatError(StoreError):
    """This is not a store, or one of a format this version does not read."""

    exit_code = 2


class NotSealedError(StoreError):
    """The store has no generation yet: its build has not finished."""

    exit_code = 2


class IdentityError(StoreError):
    """What is asked for differs from what the store holds in a field that changes numbers."""

    exit_code = 2


class ClaimedError(StoreError):
    """Another process is building this part of the store."""


class RowError(StoreError):
    """Base of what can be wrong with rows of a shard. Each field is None where it is not known or not concerned."""

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
    """A row number that holds no data: past the end of a segment, or a frame that could not be read."""


class WriteError(StoreError):
    """The target can't take the bytes: full, read-only or gone. What was committed before is whole."""


class TrainingError(UsjepaError):
    """A run can't go on: a non-finite loss, a checkpoint that can't be read, another store than it began on."""


class Interrupted(UsjepaError):
    """Stopped on request (Ctrl-C, SIGTERM) at a safe point; the same command goes on from there."""

    exit_code = 75
