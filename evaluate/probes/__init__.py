"""Fit probes on frozen features.

Read `linear.py` first; `logistic.py`, `attentive.py` and `segmentation.py` are the other probes.
"""
