"""Verify, repair, audit, compare and describe a store that exists.

Each command has one file of its name; `salvage.py` and `repair_shards.py` belong to `repair.py`. The CLI alone imports
them.
"""
