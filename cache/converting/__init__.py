"""Make another form of what a store holds: latents of another precision, or plain files.

Read `convert.py` (a layer from a layer, without the teacher) with `agreement.py` (how near it comes), then `export.py`
(plain files for those who want no store) with `plain.py` (Parquet, npy, WebDataset).

`commands` alone imports `convert` and `export`.
"""
