"""List the sources of a folder or a manifest, and read frames from each format.

Read `base.py` first (`Entry`, `Listing`, and `Reader`, the protocol of a format), then `listing.py`, `registry.py` and
`reader.py`; each format has one file. The simulated phantom is a room of its own. Other rooms of the cache import from
any of these; train and evaluate from `base.py`, `folders.py` and `listing.py` only.
"""
