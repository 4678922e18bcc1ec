"""Turn a frame into stored rows: scan region, grey levels, views.

Read `prepare.py` first, then `regions.py`, `views.py` and `rows.py`. Others import the region cells and `pixel_layers`.
"""
