"""Read classes and numbers out of frozen features, and masks out of frozen patch tokens.

Reading order: `base.py` (what a probe is given and returns), `linear.py`, `logistic.py`, `knn.py`, `attentive.py`,
`registry.py`; for numbers `regression.py`, `ridge.py`, `attentive_numbers.py`; `segmentation.py` is the head for masks.
Others import `PROBES`, `regressors`, `base`, `regression` and `segmentation`.
"""
