"""Read several stores as if they were one.

Read `stores.py` first: `open_stores`, and `Stores`, which has the face of one store (`face.py`). `fitting.py` says in
which fields stores differ that must agree, `choosing.py` which layers a batch takes, `joining.py` makes one table of
theirs and finds what several hold, `naming.py` tells them apart in messages and records.

Others import `open_stores`, `Stores`, and, for what may be one store or several, `Readable`.
"""
