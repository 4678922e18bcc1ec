"""Find where each row of a store comes from: its source, frame and view.

Read `table.py` first (`Table`, `Origin`), then `sources.py` (what a table's sources are, and how many are held),
`segment_tables.py` (the files behind both) and `spacing.py`. Others import from any of these.
"""
