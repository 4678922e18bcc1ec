"""List the sources of a folder or a manifest, and read frames from each format.

Read `base.py` first (`Entry`, `Listing`, and `Reader`, the protocol of a format), then `listing.py`, `registry.py` and
`reader.py`. The readers of formats, and the simulated phantom, are rooms of their own. Other rooms of the cache import
from any of these; train and evaluate from `base.py`, `folders.py` and `listing.py` only.
"""
