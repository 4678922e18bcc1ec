"""Read classes out of frozen features, and masks out of frozen patch tokens.

Reading order: `base.py` (what a probe is given and returns), `linear.py`, `logistic.py`, `knn.py`, `attentive.py`,
`registry.py`; `segmentation.py` is the head for masks. Others import `PROBES`, `base` and `segmentation`.
"""
