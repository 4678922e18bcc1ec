"""What do smaller latents cost? Students from fp16, int8, int4, and both on axes, three seeds each.

`python -m benchmarks.smaller [--source FOLDER] [--seeds 3] [--work smaller]`: builds a store, trains a pixel teacher
on it, stores its latents in fp16, makes every other form of them (`usjepa-cache convert`), trains a student from each
with each seed, and probes it on patients that no training saw. One process at a time, one thread each. Every stage
resumes. The picture of the phantom goes to `docs/smaller-phantom.svg`, that of a folder stays in --work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.learning.scores import scores_of
from benchmarks.learning.work import Work
from benchmarks.machine import describe, write_results
from benchmarks.smaller.picture import Point, curve_svg
from usjepa.cache.coding.form import Form
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.store.precision import bytes_per_row

if TYPE_CHECKING:
    from collections.abc import Sequence

RECIPE = "demo"
PHANTOM = ("cache.phantom.patients=40", "cache.phantom.frames_per_patient=10", "cache.phantom.seed=5")
"""Small: eighteen students in some minutes of one core. Another one than those of `make results`."""
SHORT = ("evaluate.corruptions=[]", "evaluate.few_shot=[]", "evaluate.bootstrap=0", "evaluate.baselines=[]")
STORE = "own"
PICTURE = Path(__file__).parents[2] / "docs" / "smaller-phantom.svg"
Scores = dict[str, list[dict[str, dict[str, Any]]]]
"""Form -> for each training seed, task -> scores."""


def forms_of(dim: int) -> list[Form]:
    """Return what is compared: whole precisions, two forms of about 0.2 of fp16's bytes, and one of less."""
    fifth_int8 = (2 * dim - 20) // 5
    return [
        Form("fp16"), Form("int8"), Form("int4"), Form("int8", fifth_int8), Form("int4", 2 * fifth_int8),
        Form("int4", dim // 2),
    ]  # fmt: skip


class Smaller:
    """The commands of a comparison, in a folder."""

    def __init__(self, folder: Path, source: str | None, sets: Sequence[str]) -> None:
        self.work = Work(folder, source, 3 if source else 1)
        self.work.sets = () if source else PHANTOM
        self.sets = tuple(sets)
        self.store = self.work.store(STORE, 0)
        teacher = load_recipe(RECIPE).cache.teacher
        assert teacher is not None
        self.teacher = teacher.name

    def prepare(self) -> list[Form]:
        """Build pixels, teacher, latents and every form of them."""
        work = self.work
        work.build("pixels", STORE, 0, sets=self.sets)
        first = work.path("run-teacher")
        work.call("teacher", "usjepa-train", self.store, first, "--pipeline", f"{RECIPE}-teacher", sets=self.sets)
        work.build("latents", STORE, 0, "--teacher", first, sets=self.sets)
        forms = forms_of(open_store(self.store).layers[f"latents/{self.teacher}"].latent_shape[1])
        for form in forms[1:]:
            axes = () if form.axes is None else ("--axes", str(form.axes))
            given = ("convert", self.store, "--precision", form.precision, *axes, "--teacher", self.teacher)
            work.call("convert", "usjepa-cache", *given)
        return forms

    def layer(self, form: Form) -> str:
        """Return the name of the latents in a form."""
        return self.teacher if form == Form("fp16") else f"{self.teacher}-{form.suffix}"

    def score(self, form: Form, seed: int) -> dict[str, dict[str, Any]]:
        """Train a student and probe it; return task -> scores."""
        run, report = (self.work.path(f"{kind}-{form.suffix}-{seed}") for kind in ("run", "report"))
        sets = (*self.sets, f"train.teacher={self.layer(form)}", f"train.seed={seed}")
        self.work.call("train", "usjepa-train", self.store, run, "--pipeline", RECIPE, sets=sets)
        given = (run, "--task", self.store, "--pipeline", RECIPE, "-o", report)
        self.work.call("evaluate", "usjepa-evaluate", *given, sets=SHORT)
        return scores_of(json.loads((Path(report) / "scores.json").read_text()), "student")

    def told(self, form: Form) -> dict[str, Any]:
        """Return bytes of a row, error and variance kept of a form."""
        store = open_store(self.store)
        whole = store.layers[f"latents/{self.teacher}"].latent_shape
        nbytes, of = bytes_per_row(form, *whole), bytes_per_row(Form("fp16"), *whole)
        entry = next((one for one in store.manifest.audits if one["layer"] == f"latents/{self.layer(form)}"), {})
        found = {"bytes_per_row": nbytes, "share": nbytes / of, "relative_error": entry.get("relative_error", 0.0)}
        return found | {key: entry[key] for key in ("kept", "cosine") if key in entry}


def verdict(scores: dict[str, list[float]], form: str) -> str:
    """Say whether a form's mean lies within the deviation of fp16's over training seeds."""
    difference = statistics.mean(scores[form]) - statistics.mean(scores["fp16"])
    spread = statistics.stdev(scores["fp16"]) if len(scores["fp16"]) > 1 else 0.0
    where = "within" if abs(difference) <= spread else "above" if difference > 0 else "below"
    return f"{form}: {difference:+.1f} points, {where} fp16's deviation of {spread:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--source", help="folder of real frames; none: the phantom")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("smaller"))
    parser.add_argument("--set", dest="sets", action="append", default=[], help="of the recipe, for all stages")
    args = parser.parse_args()
    smaller = Smaller(args.work / ("source" if args.source else "phantom"), args.source, args.sets)
    forms = smaller.prepare()
    found: Scores = {str(form): [] for form in forms}
    for seed in range(args.seeds):  # a seed of all forms first: what was cut short still compares them
        for form in forms:
            found[str(form)].append(smaller.score(form, seed))
            print(f"seed {seed}, {form}: {found[str(form)][-1]}", file=sys.stderr, flush=True)
        lines = write(smaller, forms, found, "source" if args.source else "phantom")
    print("\n".join(lines))


def write(smaller: Smaller, forms: Sequence[Form], found: Scores, which: str) -> list[str]:
    """Write the results as JSON and the probe's as a picture of each task; return the verdicts."""
    told = {str(form): smaller.told(form) for form in forms}
    verdicts = []
    for task in sorted({task for one in found["fp16"] for task in one}):
        for measure in ("probe", "logistic", "knn"):
            scores = {name: [one[task][measure] for one in seeds if task in one] for name, seeds in found.items()}
            verdicts += [f"{task}, {measure}: {verdict(scores, name)}" for name in scores if name != "fp16"]
            if measure == "probe":
                points = [Point(name, told[name]["share"], scores[name]) for name in scores]
                title = f"A student's probe by the form of its targets: {'phantom' if which == 'phantom' else task}"
                shown = PICTURE if which == "phantom" else smaller.work.folder / f"smaller-{task}.svg"
                shown.write_text(curve_svg(points, title, "macro F1, %"))
    content = {
        "machine": describe(("torch", "timm", "usjepa")),
        "sets": [*smaller.work.sets, *smaller.sets],
        "recipe": load_recipe(RECIPE).model_dump(mode="json"),
        "times": smaller.work.times(),
        "forms": told,
        "macro_f1": found,
        "verdicts": verdicts,
    }
    write_results(f"smaller-{which}", content)
    return verdicts


if __name__ == "__main__":
    main()
