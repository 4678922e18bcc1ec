"""Define the metadata of a model card, and write it into a card.

The fields are those of Hugging Face's model cards (huggingface.co/docs/hub/model-cards, "Model card metadata").
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_FENCED = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
TAGS = ("ultrasound", "self-supervised", "jepa")
UNKNOWN = "unknown"
"""The licence of a card whose author has not chosen one."""


@dataclass(frozen=True)
class FrontMatter:
    """What a hub shows and filters by."""

    license: str = UNKNOWN
    """As the hub writes it, such as apache-2.0 or cc-by-nc-4.0."""
    base_model: tuple[str, ...] = ()
    """ORG/NAME of what it was made from: its teacher."""
    datasets: tuple[str, ...] = ()

    def to_text(self) -> str:
        """Return it as YAML between two fences; what users give is written as JSON, which YAML reads."""
        return (
            f"---\nlicense: {json.dumps(self.license)}\nlibrary_name: timm\npipeline_tag: image-feature-extraction\n"
            f"base_model: {json.dumps(self.base_model)}\ndatasets: {json.dumps(self.datasets)}\n"
            f"tags: [{', '.join(TAGS)}]\n---\n"
        )

    def placed_in(self, card: str) -> str:
        """Return a card with this metadata in place of what it had."""
        return self.to_text() + _FENCED.sub("", card, count=1)
