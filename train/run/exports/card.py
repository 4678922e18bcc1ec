"""Write the model card, README.md beside the encoder, as model hubs read it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from usjepa.train.record.front_matter import FrontMatter
from usjepa.train.run.opening import record_of, records_in

if TYPE_CHECKING:
    from usjepa.cache.identity import Json
    from usjepa.train.run.plan import TrainingPlan

_LOAD = """```python
import timm

model = timm.create_model("local-dir:.", pretrained=True).eval()  # this folder
cfg = model.pretrained_cfg  # input: pixels in [0, 1], minus cfg["mean"], over cfg["std"], per channel
features = model(images)  # the mean of the patch tokens [B, D]
tokens = model.forward_features(images)[:, model.num_prefix_tokens:]  # patch tokens [B, T, D]
```"""

_HOW = {
    "latents": "by masked prediction (US-JEPA, arXiv 2602.19322)",
    "pixels": "by masked prediction of pixels (the first stage of SALT, arXiv 2509.24317)",
    "contrast": "by telling images apart (NT-Xent, arXiv 2002.05709)",
}
"""Objective -> how an encoder was trained."""


def model_card(
    plan: TrainingPlan, versions: dict[str, Json], architecture: str, chosen: str, epochs: int, notes: list[str]
) -> str:
    """Return the card: what the encoder is, what it learnt from, how it was trained, how far it can be trusted.

    Args:
        plan: of the run.
        versions: that trained it.
        architecture: timm name of the encoder.
        chosen: which of its encoders this is.
        epochs: that the run has begun.
        notes: summary of the run, in lines.
    """
    rows = _facts(plan, architecture, chosen, epochs)
    rows["versions"] = ", ".join(f"{name} {value}" for name, value in sorted(versions.items()))
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    teacher = json.dumps(plan.targets.identity, indent=1, sort_keys=True)
    recipe = json.dumps(plan.recipe.train.shareable().model_dump(mode="json"), indent=1, sort_keys=True)
    summary = "\n".join(f"- {line}" for line in notes)
    how = _HOW[plan.settings.objective]
    metadata = FrontMatter(datasets=tuple(sorted(set(plan.store.table.source_column("dataset")))))
    return f"""{metadata.to_text()}# Ultrasound encoder

Trained with usjepa {how}. The features to
use are the mean of the patch tokens, which `model(x)` gives.

| | |
|---|---|
{table}

{_LOAD}

## How the training went
{summary}

No claim about a task follows from these figures: `usjepa-evaluate` scores the encoder on labelled frames. It is no
medical device, and has been tested on no patient.

## What it learnt from
```json
{teacher}
```

## Settings of the training
```json
{recipe}
```
"""


def _facts(plan: TrainingPlan, architecture: str, chosen: str, epochs: int) -> dict[str, str]:
    """Return the rows of the card's table, by their titles."""
    settings, store = plan.settings, plan.store
    masks = f"multiblock masks {'inside the scan region' if settings.masks.regions else 'over the whole frame'}"
    learnt = {
        "latents": f"`{settings.loss}` on the patch latents of the frozen teacher `{plan.targets.name}`, {masks}",
        "pixels": f"`{settings.loss}` on its own masked pixels, {masks}",
        "contrast": f"images of one {settings.contrast.positives} told from all others of a batch (NT-Xent)",
    }[settings.objective]
    held = f"{len(plan.validation_rows):,} frames of other groups held out"
    return {
        "encoder": f"`{architecture}`, {store.size} x {store.size} pixels",
        "objective": learnt,
        "frames": f"{plan.order.length:,} per epoch, {epochs} epochs; {held}",
        "chosen": chosen,
        **_stores(record_of(store)),
    }


def _stores(remembered: dict[str, Json]) -> dict[str, str]:
    """Return a row for the store, or one for each of several."""
    records = records_in(remembered)
    told = [f"generation {record['generation']}, digest `{record['digest']}`" for record in records]
    if len(records) == 1:
        return {"store": told[0]}
    return {
        f"store {number} of {len(records)}": f"`{record['name']}`, {text}"
        for number, (record, text) in enumerate(zip(records, told, strict=True), start=1)
    }
