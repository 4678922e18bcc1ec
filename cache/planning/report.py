"""Describe a planned build to a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.cache.coding.form import Form

if TYPE_CHECKING:
    from usjepa.cache.planning.estimate import Forecast, Measured
    from usjepa.cache.planning.plan import BuildPlan
    from usjepa.cache.planning.trial import CodingFound

_ADVICE = {
    "scan": "hashing and counting files takes longest; it is done once and resumes",
    "decode": "more processes help where cores are free (--set cache.decode_processes=N), so do --part and --dask",
    "teacher": "a GPU, cache.teacher.compute=bf16, or several machines (--part I/N, --dask) make it faster",
    "write": "a faster disk, or fewer bytes (cache.precision=int8 or int4), makes it faster",
}


def describe(plan: BuildPlan) -> str:
    """Return the plan as lines for a person."""
    wanted, measured = plan.wanted, plan.measured
    size = f"{wanted.rows:,} rows, {_bytes(wanted.nbytes)}, {wanted.files:,} inodes"
    return "\n".join(
        [
            f"{plan.source} -> {plan.target}",
            *_measured(measured),
            "",
            f"A build takes {_time(wanted.seconds)}: {size}.",
            f"Slowest part: {wanted.slowest}; {_ADVICE[wanted.slowest]}.",
            *_room(plan),
            *_table(plan),
        ]
    )


def _measured(measured: Measured) -> list[str]:
    trial, rates, frames = measured.trial, measured.rates, measured.frames
    sure = "counted" if frames.error == 0 else f"+- {2 * frames.error:,.0f} (95 %), from {measured.sampled:,} of them"
    teacher = f"{1 / trial.teacher:,.1f} images/s" if trial.teacher else "none: pixels and regions only"
    return [
        f"{'sources':12s} {measured.sources:,}; {frames.value:,.0f} frames, {sure}",
        f"{'scan':12s} {_time(measured.scan.value)} for all",
        f"{'decode':12s} {1 / trial.decode if trial.decode else 0:,.1f} rows/s",
        f"{'teacher':12s} {teacher}",
        f"{'target':12s} writes {rates.write / 1e6:,.0f} MB/s (fsynced), reads {rates.read / 1e6:,.0f} MB/s at random "
        "(one thread)",
        f"{'all at once':12s} {1 / trial.row:,.1f} rows/s, over {trial.rows:,} rows",
        *map(_coding, trial.codings),
    ]


def _coding(one: CodingFound) -> str:
    axes = f"{one.axes} of {one.channels} axes keep {100 * one.kept:.1f} % of the variance, " if one.axes else ""
    return f"{'latents':12s} {one.layer}: {axes}relative error {one.error:.2g} (of {one.rows} rows)"


def _room(plan: BuildPlan) -> list[str]:
    if plan.wanted.fits:
        return []
    room = plan.measured.room
    files = "" if room.files is None else f" and {room.files:,} inodes"
    return [f"It does not fit: {_bytes(room.nbytes)}{files} are free. A build would refuse to begin."]


def _table(plan: BuildPlan) -> list[str]:
    if not plan.others:
        return []
    width = max(len("precision"), *(len(_form(one)) for one in plan.others))
    head = f"{'precision':{width}s} {'K':>3s} {'bytes':>10s} {'inodes':>9s} {'build':>9s}  pays from epoch"
    basis = f"Seconds per row as measured at K = {plan.wanted.views}; more views share the decoding of a frame."
    return ["", head, *(_line(one, width) for one in plan.others), basis]


def _form(one: Forecast) -> str:
    return str(Form(one.precision, one.axes))


def _line(one: Forecast, width: int) -> str:
    pays = "never: reading is slower than the teacher" if one.pays_from_epoch is None else f"{one.pays_from_epoch:,}"
    room = "" if one.fits else "  (does not fit)"
    nbytes, took = _bytes(one.nbytes), _time(one.seconds)
    return f"{_form(one):{width}s} {one.views:3d} {nbytes:>10s} {one.files:9,d} {took:>9s}  {pays}{room}"


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 1000 or unit == "TB":
            return f"{n:.3g} {unit}" if n < 1000 else f"{n:,.0f} {unit}"
        n /= 1000
    raise AssertionError("unreachable")


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
