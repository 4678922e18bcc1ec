"""List what a folder or a manifest holds, and read frames from each kind of file.

Read `base.py` first, then `listing.py` and `registry.py`; each format has one file. The simulated phantom is a room of
its own. Others import `list_source`, `Listing` and the frame types of `base.py`.
"""
