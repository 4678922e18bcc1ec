"""Probe an encoder on labelled frames of another set while it trains.

Read `probe_set.py` first: it opens the set, from `labelled.py` (files of a store, or of a folder, cut into a store) and
`folds.py` (who is fitted on and who is scored, by the `splits.py` that an evaluation makes). `scoring.py` scores
features by `logistic.py` and `knn.py`, standardised by `scaler.py`. Others import `ProbeSet`, `open_probe_set`,
`probe_score`, and evaluations `splits.py`, `scaler.py`, `logistic.py` and `knn.py`. It imports no room of train.
"""
