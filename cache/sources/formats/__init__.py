"""Decode each file format that labs have: one reader per format, one rule for depth.

`depth.py` turns samples of any type into 8 bits and is read first; `plausible.py` refuses headers that claim too much.
Readers keep the protocol of `sources/base.py`; only `sources/registry.py` imports them. What each reads and refuses
stands in docs/reference/formats.md.
"""
