"""Say where rows come from, in memory proportional to clips and not to rows.

Read `runs.py` (which rows) first, then `stretches.py` (of which sources and frames they are). `store` describes its
tables so; a training orders its epochs by them. Others import `Runs` and `Stretches`.
"""
