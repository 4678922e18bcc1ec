"""Recognise the names of splits, so that no test frame is trained on.

Every split that enters a table is one of `train`, `val`, `test` and `train_val`, whatever the data calls it. A name
that is none of their known spellings is refused by whoever reads it, and never taken for training.
"""

from __future__ import annotations

import re
from functools import lru_cache

TRAIN, VAL, TEST, TRAIN_VAL = "train", "val", "test", "train_val"

_SPELLINGS = {
    TRAIN: "train training trn tr trainset trainingset",
    VAL: "val valid validation validating vali va valset validset validationset dev devel development devset tuning",
    TEST: "test testing tests tst ts te testset testingset eval evaluation holdout heldout",
    TRAIN_VAL: "trainval trainvalid trainvalidation traindev trainingvalidation valtrain",
}
_NAMES = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings.split()}
_NONE = {"", "nan", "none", "null", "na", "n/a", "-"}

_BESIDE = """
a b c d x y set sets subset split data dataset datasets image images img imgs frame frames video videos clip clips case
cases patient patients scan scans sample samples file files folder dir us ultrasound echo png jpg dcm dicom label labels
mask masks gt raw orig original full final cropped processed resized for of the external internal independent unseen
hidden
"""
_FILLERS = frozenset(_BESIDE.split())
"""Words beside a split's in the name of a folder that change nothing: `test_images` is `test`."""
_SHORT = {"tr", "ts", "te", "va", "dev", "devel", "development", "tuning", "tests"}
"""Spellings that alone are no folder of a split; nnU-Net's `imagesTs` is."""
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]+")

KNOWN = "train, val, test or train_val"
"""The names of splits, for messages."""


def split_named(name: str) -> str | None:
    """Return the split of a name as a table's cell or a list has it: "" for none, None for a name that is not known."""
    plain = name.strip().lower()
    if plain in _NONE:
        return ""
    whole = re.sub(r"[\s_+/&.-]+|\band\b", "", plain)
    return _NAMES.get(whole) or _of_words(_words(name))


@lru_cache(maxsize=1024)
def canonical(name: str) -> str:
    """Return the split of a name in a store's table; a name that is not known stays as it is."""
    known = split_named(name)
    return name if known is None else known


def split_of_folder(name: str) -> str:
    """Return the split that a folder's name says, "" where it says none.

    Raises:
        ValueError: it may name a test split, and does not clearly; the text is the reason.
    """
    words = _words(name)
    if (len(words) == 1 and words[0] in _SHORT) or not words:
        return ""
    known = _of_words(words)
    if known is not None:
        return known
    if any(_NAMES.get(word) == TEST and word not in _SHORT for word in words):
        raise ValueError(f"the folder {name!r} may be a test split or may not")
    return ""


def split_within(name: str) -> str:
    """Return the one split that a list's or folder's name contains among other words, "" where it is none or several.

    For lists of known layouts only: `instances_train2017.json`, `my_test_paths.csv`.
    """
    found = {_NAMES[word] for word in _joined(_words(name)) if word in _NAMES and word not in _SHORT}
    if found == {TRAIN, VAL}:
        return TRAIN_VAL
    return found.pop() if len(found) == 1 else ""


def names_split(name: str) -> bool:
    """Return whether some word of a name is that of a split: `is_test`, `train_ids.txt`, `splits`."""
    words = _words(name)
    return any(word in ("split", "splits", "fold", "folds", "subset", "partition") for word in words) or any(
        _NAMES.get(word, "") and word not in _SHORT for word in words
    )


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case, digits left out: `ImagesTest_2` gives images, test."""
    return [word.lower() for word in _WORD.findall(name)]


def _of_words(words: list[str]) -> str | None:
    """Return the one split that words name beside fillers; None where they name none, several, or say more."""
    joined = _joined(words)
    found = {_NAMES[word] for word in joined if word in _NAMES}
    if not found or any(word not in _NAMES and word not in _FILLERS for word in joined):
        return None
    if found == {TRAIN, VAL}:
        return TRAIN_VAL
    return found.pop() if len(found) == 1 else None


def _joined(words: list[str]) -> list[str]:
    return " ".join(words).replace("hold out", "holdout").replace("held out", "heldout").split()
