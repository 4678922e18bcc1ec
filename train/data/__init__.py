"""Order the rows of a store and hand them out in batches.

Read `split.py` and `order.py` first (`crossing.py` splits what several stores hold); `clip_runs.py` and
`permutation.py` keep an order small and fast. `batches.py` reads batches for `usjepa-train`, `partners.py` and
`pairs.py` pairs of them (both through `read_ahead.py`), `fingerprint.py` names them in the log, `dataset.py` serves
loops of your own. Others import `BatchMaker`, `PairMaker`, `StoreDataset`, `EpochOrder` and `split_of`. This room
imports `objective`, `masks`, `counter`.
"""
