"""Turn a frame into stored rows: scan region, grey levels, views.

Read `rows.py` first, which cuts rows from sources, then `prepare.py`, `regions.py`, `views.py` and `cells.py`;
`layers.py` describes what is stored. Train and evaluate import `cells.py` and `grey_of` only.
"""
