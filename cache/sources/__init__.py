"""List the sources of a folder or a manifest, and read frames from each format.

Read `base.py` first (`Entry`, `Listing`, and `Reader`, the protocol of a format), then `listing.py`, `grouping.py` and
`splits.py` (whose frame is it?), `columns.py` (what tables tell of that) and `registry.py`. Folders are walked in
`found.py` and `tree.py`. What reads frames (`files`), the readers of formats, and the simulated phantom are rooms of
their own. Other rooms of the cache import from any of these; train and evaluate from `base.py`, `columns.py`,
`folders.py`, `listing.py`, `patients.py` and `splits.py` only.
"""
