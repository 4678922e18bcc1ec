"""Compute scores from predictions: macro F1, intervals over patients, calibration.

Reading order: `records.py` (what a measure is), `metrics.py`, `bootstrap.py`, `calibration.py`. All may be imported.
"""
