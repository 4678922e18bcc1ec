"""Open a store and read batches of rows, each checked against its place.

Read `store.py` first: `open_store`, `Store.read`; what a `Store` tells of its rows and layers lies in `contents.py`. A
batch then goes through `batch_reader.py`, which pins the shards of its rows (`open_shards.py`) and shares the work
among threads (`workers.py`); rows of a layer are planned and read by `layer_reader.py`, from files by `local.py`, from
an object storage by `remote.py`. Beside that way lie what a batch is (`batch.py`), memory for it (`batch_memory.py`),
views of a layer by Zarr and Dask (`arrays.py`), arrays kept under their identity (`kept.py`), and what belongs to one
process (`process.py`).

Others import `open_store`, `Store` and `Batch`; a training loop and a build also `Ring` and `short_turns`; a build that
reads back what is not sealed yet, `BatchReader`; an evaluation, `KeptArray`.
"""
