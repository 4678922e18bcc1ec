"""Show a run in Weights & Biases, offline unless WANDB_MODE says otherwise."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import wandb

from usjepa.train.tracking.tracker import numbers_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.train.tracking.opening import About
    from usjepa.train.tracking.tracker import Line


class WandB:
    """A run of Weights & Biases under the tracking id of ours: a resumed training goes on with it."""

    def __init__(self, about: About) -> None:
        """Begin the run or go on with it; `wandb sync RUN/wandb/offline-*` sends an offline one later."""
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "usjepa"),
            id=about.id,
            name=about.folder.absolute().name,
            resume="allow",
            dir=str(about.folder),
            mode="online" if os.environ.get("WANDB_MODE") == "online" else "offline",
            config=about.recipe,
            settings=_numbers_alone(),
        )

    def write(self, lines: Sequence[Line]) -> None:
        """Log each line at its step."""
        for line in lines:
            self._run.log(dict(numbers_of(line)), step=line["step"])

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def _numbers_alone() -> wandb.Settings:
    """Return settings by which nothing leaves the machine but numbers and recipe: no output, code, host or packages."""
    return wandb.Settings(
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
