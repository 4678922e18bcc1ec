"""Build a store: make shards here, as one of several parts, or on a cluster.

Read `build.py` first, then `shard_maker.py` and `pipeline.py`. Others import `build` and its `Request`.
"""
