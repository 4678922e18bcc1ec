"""Predict bytes, inodes and hours of a build before it starts.

Read `plan.py` first, then what it measures with: `sample.py` (frames and scan), `target.py` (the disk) and `trial.py`
(a build in small); `estimate.py` has the arithmetic and `report.py` the text. Others import `plan`.
"""
