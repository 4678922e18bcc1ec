"""Decode each format of files that laboratories have: one reader a format, one rule for depth.

`depth.py` turns samples of any type into 8 bits and is read first. Readers keep the protocol of `sources/base.py`; only
`sources/registry.py` imports them.
"""
