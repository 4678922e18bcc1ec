"""Turn a frame into stored rows: scan region, grey levels, views.

Read `rows.py` first, which cuts rows from sources, then `prepare.py`, `views.py` and `cells.py`; `layers.py` describes
what is stored. The region: `clips.py` finds one per clip, by `regions.py`, which takes what is lit (`lit.py`,
`marks.py`) and fits a shape to it (`shapes.py`, `fitting.py`). Train and evaluate import `cells.py` and `grey_of` only.
"""
