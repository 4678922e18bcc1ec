"""Load a frozen teacher and compute its latents in stored precision.

Read `teacher.py` first, then `checkpoints.py`, `layers.py` and `asking.py`. Others import `Teacher`, `load_teacher`
and `teacher_layers`.
"""
