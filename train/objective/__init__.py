"""Compute the loss, and the targets that it compares predictions with.

Read `loss.py` first, then `target_norm.py` and `pixel_targets.py`.
"""
