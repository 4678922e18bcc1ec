"""Score an encoder on a task: probe, few labels, corruptions, segmentation.

Read `linear.py` first; each other file is one way of scoring.
"""
