"""Scan a source: list, hash, count frames, assign splits, plan rows, add segments.

Read `scan.py` first, then `scanned.py` (what it found), `splits.py`, `changes.py` (which frames are taken),
`row_table.py` and `growth.py`, which adds what a scan found to a store; `known_sources.py` and `known_groups.py` hold
and keep what the store has, `journal.py` lets a killed scan go on and `report.py` describes a scan to the user. Others
import `list_source`, `scan`, `scan_report`, `row_table`, `grow` and `passed_over_lines`.
"""
