"""Define the store's format: layers, shards, commit records, generations and tables.

Read `layers.py` and `shard.py` first, then `commits.py`, `generations.py`, `state.py` and `writer.py`. Others import
`Layer`, `StoreWriter`, `Manifest` and the table types; only `reading` opens a store for users.
"""
