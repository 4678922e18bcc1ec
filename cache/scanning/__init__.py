"""Scan a source: list it, hash contents, count frames, assign splits, write a segment's tables.

Read `scan.py` first, then `growth.py`. Others import `list_source`, `scan`, `scan_report` and `grow`.
"""
