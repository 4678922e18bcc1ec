"""Score every encoder on every task, one record for each pair.

Reading order: `inputs.py`, `evaluation.py` (the loop), `encoder.py` (one pair), `gathering.py`, `few_shot.py`,
`robustness.py` with `corruptions.py`, `regression.py` (of `items.py`), `segmentation.py`. Others import `Inputs`,
`Evaluation`, `Items` and the records.
"""
