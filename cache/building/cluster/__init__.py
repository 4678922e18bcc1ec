"""Make shards on a Dask cluster, of which anyone may die.

A task is a run of neighbouring shards, which a worker sends through its pipeline. Read `client.py` first (what a build
asks for, and what it does about the dead), then `worker.py` (the other side); `connecting.py` finds or starts workers.
The build imports `connect`, `warm_up`, `make_shards_on` and `WorkOrder`; `connect`, whoever else computes on a cluster.
"""
