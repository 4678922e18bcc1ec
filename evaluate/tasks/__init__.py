"""Find labelled tasks on disk, and split them by patient.

Reading order: `base.py` (a layout), `layouts.py` and the room `published`, `cut.py`, `find.py` with `name_groups.py`,
`task.py`, `splits.py`, `crossing.py`; then `measurements.py` with `regression.py`, and `segmentation.py`. What is wrong
with a task is found next door, in `checking`. Others import `find.open_tasks`, `crossing.add_crossed`,
`regression.open_regressions`, `segmentation.open_segmentations` and `task.Task`.
"""
