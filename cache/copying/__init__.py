"""Copy a store between any two storages, every row checked on the way.

Read `copy.py` first. What is left out is a `Selection` (`selection.py`). Before anything is written, `target.py` makes
sure that what lies there is nothing, or a part of this very copy. Whole layers are copied file by file (`whole.py`);
chosen rows are numbered anew and packed into shards of their own (`rows.py`).

`commands` alone imports `copy_store` and `Selection`.
"""
