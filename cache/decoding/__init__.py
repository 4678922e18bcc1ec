"""Decode other people's files in child processes, so that a crashing parser costs one file.

Read `child.py` (the parent's side) first, then `worker.py` (the child's) and `cutters.py` (a pool of children that
cuts rows, which come from its tables by `segment_rows.py`); clips that lie in several shards are decoded once by
`handing_on.py`, with `given.py`, in the order of `turns.py`. `many.py` has many files looked at by several children;
`wire.py` carries messages between them, by `lifeline.py` a child ends with its parent, and by `spare.py` one goes
from task to task of a build.
Others import `DecodingProcess`, `ManyChildren` and `Cutters`; a build also `spare_child`.
"""
