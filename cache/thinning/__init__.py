"""Take away what a store no longer needs, or must no longer hold.

Read `collect.py` (delete what no kept generation names) first; `garbage.py` finds it, `runs.py` knows who still needs a
generation. Then `remove.py` (a patient withdraws): `withdrawal.py` works out the tables and the generation without
them, `rewriting.py` writes shards anew.

`commands` alone imports `collect`, `remove` and `Choice`.
"""
