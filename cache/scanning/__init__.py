"""Scan a source: count frames, hash contents, assign splits, write a segment's tables.

Read `scan.py` first, then `growth.py`. Others import `scan_report` and `grow`.
"""
