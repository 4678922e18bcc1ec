"""Read labelled frames and masks as data sets lie on disk: a layout a file.

Reading order: `ultrabench.py`, `busbra.py`, `tn5000.py`, `image_masks.py`. Only `tasks/layouts.py` imports them, into
its list; what a layout is stands in `tasks/base.py`.
"""
