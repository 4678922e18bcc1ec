"""Open a store and read batches of rows, each checked against its place.

Read `store.py` first, then `batch.py` and `reading.py`. Others import `open_store`, `Store` and `Batch`.
"""
