"""Name the conditions of `make results`: what is trained, on which store, from which first stage."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.learning.scores import BOTH, CONTRAST, INT8, OF_PIXELS, PIXEL_ONLY, STUDENT, TEACHER
from usjepa.cache.recipes.recipe import load_recipe

OWN, FOUR = "own", "k4"
"""Names of stores: of as many views as the recipe says, and of four."""
FIRSTS = ("pixels", "contrast", "depths")
"""First stages whose encoder teaches: by predicting pixels, by telling images apart, or by pixels at several depths."""


@dataclass(frozen=True)
class First:
    """A first stage."""

    row: str
    """Its own row of the table."""
    recipe: str
    latents: str
    """Name of its latents in a store."""
    sets: tuple[str, ...] = ()
    """What its latents are, where it is not what the recipe says."""


@dataclass(frozen=True)
class Condition:
    """One row of the table."""

    name: str
    store: str
    recipe: str
    sets: tuple[str, ...] = ()
    learns_from: tuple[First, ...] = ()
    """First stages whose latents it reads."""
    programme: tuple[str, ...] = ("usjepa-train",)
    """What trains it: a command, or a path and its arguments."""


def first_of(recipe: str, stage: str, file: str | None = None) -> First:
    """Return a recipe's first stage, `pixels` or `contrast`; `file` names recipes that are not the built-in ones."""
    teacher = load_recipe(recipe, file=file).cache.teacher
    assert teacher is not None
    if stage == "pixels":
        return First(TEACHER, f"{recipe}-teacher", teacher.name)
    return First(CONTRAST, f"{recipe}-contrast", f"{teacher.name}-contrast")


def conditions(recipe: str = "demo", stage: str = "pixels") -> list[Condition]:
    """Return what is compared under a recipe of students whose teacher is of a stage."""
    return {"pixels": _of_pixels, "contrast": _of_contrast, "depths": _of_depths}[stage](recipe)


def _student(name: str, recipe: str, first: First, *sets: str, store: str = OWN) -> Condition:
    return Condition(name, store, recipe, (f"train.teacher={first.latents}", *sets), (first,))


def _of_pixels(recipe: str) -> list[Condition]:
    """Each differs from the first in the one setting that its row names."""
    student, first = load_recipe(recipe).train, first_of(recipe, "pixels")
    both = student.epochs + load_recipe(first.recipe).train.epochs
    regions = "masks over the whole frame" if student.masks.regions else "masks inside the region"
    coarse = First(TEACHER, first.recipe, f"{first.latents}-int8", ("cache.precision=int8",))
    return [
        _student(STUDENT, recipe, first),
        Condition(TEACHER, OWN, first.recipe),
        Condition(PIXEL_ONLY, OWN, first.recipe, (f"train.epochs={both}",)),
        _student(regions, recipe, first, f"train.masks.regions={str(not student.masks.regions).lower()}"),
        _student(INT8, recipe, coarse),
        _student("4 views", recipe, first, store=FOUR),
        _student("targets as they are", recipe, first, "train.target_norm=none"),
        _student("targets standardised", recipe, first, "train.target_norm=standardised"),
    ]


def _of_contrast(recipe: str) -> list[Condition]:
    """Students of two first stages, apart and together, beside both."""
    apart, pixels = first_of(recipe, "contrast"), first_of(recipe, "pixels")
    two = f"train.targets=[{pixels.latents},{apart.latents}]"
    return [
        _student(STUDENT, recipe, apart),
        Condition(CONTRAST, OWN, apart.recipe),
        Condition(BOTH, OWN, recipe, (two,), (pixels, apart)),
        _student(OF_PIXELS, recipe, pixels),
        Condition(TEACHER, OWN, pixels.recipe),
    ]


def _of_depths(recipe: str) -> list[Condition]:
    """Students of single blocks of the pixel teacher and of all of them, and one that learns at visible patches too."""
    last, pixels = load_recipe(recipe).train.student.depth, first_of(recipe, "pixels")
    assert last is not None
    blocks = (last // 3, 2 * last // 3, last)
    taken = ",".join(str(block) for block in blocks)
    deep = First(TEACHER, pixels.recipe, f"{pixels.latents}-depths", (f"cache.teacher.blocks=[{taken}]",))
    layers = [f"{deep.latents}.{block}" for block in blocks]

    def of(name: str, *sets: str) -> Condition:
        return Condition(name, OWN, recipe, sets, (deep,))

    return [
        of(STUDENT, f"train.teacher={layers[-1]}"),
        Condition(TEACHER, OWN, pixels.recipe),
        of(f"student of blocks {taken}", f"train.targets=[{','.join(layers)}]"),
        of("visible patches, half weight", f"train.teacher={layers[-1]}", "train.visible_weight=0.5"),
        *(
            of(f"student of block {block}", f"train.teacher={layer}")
            for block, layer in zip(blocks[:-1], layers, strict=False)
        ),
    ]
