"""Make shards on a Dask cluster, of which anyone may die.

A task is a run of neighbouring shards, which a worker sends through its pipeline. Read `client.py` first (what a build
asks for, and what it does about the dead), then `worker.py` (the other side) and `order.py` (what both tell the other);
`connecting.py` finds workers or starts them, with `nanny.py`. The build imports `connecting`, `make_shards_on` and
`WorkOrder`; `connect`, whoever else computes on a cluster.
"""
