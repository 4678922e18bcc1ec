"""Replace paths and groups that may name a patient by aliases (`cache.hash_paths`).

An alias is the keyed BLAKE2b-128 of the name. Without a key, anyone who can guess a path can confirm the guess; set the
environment variable USJEPA_PATH_KEY to a secret of your own to prevent that, the same one for every build of a store.
Aliases stand in tables, logs, errors and reports; `usjepa-cache scan --hash-paths --names` prints which file is which,
to those who have the files and the key.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from usjepa.cache.sources.base import packed_entries
from usjepa.cache.sources.patients import KEY_VARIABLE, group_key, is_patient, key_check, patient_group

if TYPE_CHECKING:
    from usjepa.cache.sources.base import Entry, Listing

_DIGEST_NBYTES = 16


def with_aliases(listing: Listing) -> Listing:
    """Return a listing whose entries are named by aliases, in the order that their paths gave."""
    key = os.environ.get(KEY_VARIABLE, "").encode()
    entries = packed_entries(_with_aliases(entry, key) for entry in listing.entries)
    real = {new.path: old.path for new, old in zip(entries, listing.entries, strict=True)}
    return replace(listing, entries=entries, real=real)


def _with_aliases(entry: Entry, key: bytes) -> Entry:
    # Groups are unique within a dataset only: two patients of one name in two datasets stay two.
    group = _alias("group", "\0".join(group_key(entry.dataset, entry.group)), key)
    group = patient_group(key_check() + group) if is_patient(entry.group) else group
    return replace(entry, path=_alias("path", entry.path, key), group=group)


def _alias(kind: str, name: str, key: bytes) -> str:
    """Return the alias of a name, 32 hex digits; `kind` keeps equal paths and groups apart."""
    # BLAKE2b takes keys of up to 64 bytes; a longer secret is hashed down to one.
    key = key if len(key) <= hashlib.blake2b.MAX_KEY_SIZE else hashlib.blake2b(key).digest()
    return hashlib.blake2b(f"{kind}\0{name}".encode(), key=key, digest_size=_DIGEST_NBYTES).hexdigest()
