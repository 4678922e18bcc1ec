"""Turn stored frames into features: students, teachers, named models, baselines.

Reading order: `base.py` (what an encoder is), `encoders.py`, `models.py` and its like, `pooling.py`, `tokens.py`,
`features.py`; `finished_run.py` reads a training run. Others import `Encoders`, `KeptFeatures` and `open_run`.
"""
