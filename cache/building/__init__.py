"""Build a store: make shards here, as one of several parts, or on a cluster.

Read `request.py` and `build.py` first, then `prepare.py` (what all shards share), `latent_job.py` (a teacher and its
layers), `shard_maker.py` (one shard) and `pipeline.py` (many at once, with `lanes.py`). `parts.py` and the room
`cluster` share the work out; `recheck.py`, `disk_space.py` and `stages.py` serve them. Others import `build` and
`BuildRequest`; planning and upkeep also `ShardMaker` and `LatentJob`.
"""
