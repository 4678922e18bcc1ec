"""Name groups after patients without telling who they are.

Numbers of patients are short: whoever has a hash of one finds it by trying them all. So a group bears a hash only where
the environment variable USJEPA_PATH_KEY gives a secret, and else the path of the patient's first file. With the secret,
files that are added later from anywhere find the group of their patient; without it, only beside files that the store
has already. The secret is stretched by scrypt; 16 bits of what comes out stand in each name, so that a store notices
another secret.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache

KEY_VARIABLE = "USJEPA_PATH_KEY"
_MARK = "patient:"
_CHECK = 4
"""Hex digits of a name that tell one secret from another."""
_KEYED = re.compile(rf"{_MARK}([0-9a-f]{{{_CHECK}}})[0-9a-f]{{32}}")


def patient_group(name: str) -> str:
    """Return the name of a patient's group; it is one group in all datasets of a store."""
    return f"{_MARK}{name}"


def is_patient(group: str) -> bool:
    """Return whether a group is that of a patient whom files themselves name."""
    return group.startswith(_MARK)


def secret_of(group: str) -> str:
    """Return the digits that tell the secret by which a patient's group was named; "" where it is named by a file."""
    found = _KEYED.fullmatch(group)
    return "" if found is None else found[1]


def group_key(dataset: str, group: str) -> tuple[str, str]:
    """Return what tells a group from every other of a store: a patient is one in all datasets, others are not."""
    return ("" if is_patient(group) else dataset, group)


def hashed_patient(patient: str) -> str:
    """Return the keyed hash of a patient, 36 hex digits; "" where there is no key."""
    secret = os.environ.get(KEY_VARIABLE, "")
    if not secret:
        return ""
    key, check = _derived(secret)
    return check + hashlib.blake2b(patient.encode(errors="surrogateescape"), key=key, digest_size=16).hexdigest()


def key_check() -> str:
    """Return the digits that tell the secret of this process from another; "" where there is none."""
    secret = os.environ.get(KEY_VARIABLE, "")
    return _derived(secret)[1] if secret else ""


def comparable(group: str) -> bool:
    """Return whether a stored group of a patient was named with the secret of this process."""
    check = key_check()
    return bool(check) and group.startswith(f"{_MARK}{check}")


@lru_cache(maxsize=4)
def _derived(secret: str) -> tuple[bytes, str]:
    """Return the key of the hashes, and the digits that stand in front of each."""
    long = hashlib.scrypt(secret.encode(errors="surrogateescape"), salt=b"usjepa patient", n=2**14, r=8, p=1, dklen=34)
    return long[:32], long[32:].hex()[:_CHECK]
