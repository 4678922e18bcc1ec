"""Train: plan a run, loop over its steps, checkpoint, validate, resume.

Read `loop.py` first, then `plan.py`, `state.py`, `step.py` and `checkpoint.py`. Others import `train`.
"""
