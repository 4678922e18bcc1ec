"""Compute scores from predictions: macro F1, errors of numbers, intervals over patients, calibration.

Reading order: `records.py` (what a measure is), `metrics.py`, `units.py`, `bootstrap.py`, `regression.py`,
`calibration.py`. All may be imported.
"""
