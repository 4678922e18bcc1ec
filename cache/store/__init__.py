"""Define the store's format, and write it: layers, shards, commit records, generations and tables.

Read `layers.py`, `shard.py` and `row_check.py` first: what a row's bytes are and how they are checked. Then what makes
a shard count (`commits.py`), what a scan adds (`tables.py`, whose `columns.py` become Parquet; the room `origins` holds
what readers need of it), what seals a store (`generations.py`), what is there right now (`state.py`,
`descriptions.py`), and who writes it all, in which order (`writer.py`). `precision.py` converts latents, `memory.py`
allocates.

Others import `Layer`, `StoreWriter`, `Manifest`, `Origin` and the tables; only `reading` opens a store for users.
"""
