"""Translate other people's names of weights to timm's.

Read `layout.py` first (what a layout is, and how one is applied), then the table `known.py`, `joining.py` (what takes
more than a new name) and `shapes.py` (what the shapes of tensors tell of a model). Others import `translated`,
`Translated`, `structure` and `proposal`.
"""
