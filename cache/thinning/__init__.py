"""Take away what a store no longer needs, or must no longer hold.

Read `collect.py` (delete what no kept generation names) first; `garbage.py` finds it, `runs.py` knows who still needs a
generation.

`commands` alone imports `collect`.
"""
