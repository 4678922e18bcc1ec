"""Turn a frame into stored rows: scan region, grey levels, views.

Read `prepare.py` first, then `regions.py`, `views.py`, `cells.py` and `rows.py`. Others import `cells.py`, `grey_of`
and `pixel_layers`.
"""
