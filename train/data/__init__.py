"""Order the rows of a store and hand them out in batches.

Read `split.py` and `order.py` first, then `clip_runs.py`, `permutation.py`, `batches.py` and `dataset.py`. Others
import `Batches`, `StoreDataset` and `split_rows`.
"""
