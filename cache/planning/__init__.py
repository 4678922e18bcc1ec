"""Predict bytes, inodes and hours of a build before it starts.

Read `plan.py` first, then `sample.py`, `trial.py` and `estimate.py`. Others import `plan`.
"""
