"""What smaller latents cost: students from layers of every form, their scores against the bytes of a row.

Read `__main__.py` (what is trained and scored) with `picture.py` (the curve).
"""
