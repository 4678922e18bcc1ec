"""Find labelled tasks on disk, cut them into splits, and look for leakage.

Read `task.py` first, then `layouts.py` and `splits.py`.
"""
