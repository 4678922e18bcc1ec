"""Compute scores from predictions: macro F1, bootstrap intervals, calibration.

Each file has one family of scores and needs NumPy alone.
"""
