"""Find labelled tasks on disk, split them by patient, and report their faults.

Reading order: `base.py` (a layout), `layouts.py` and a file per layout, `cut.py`, `find.py`, `task.py`, `splits.py`;
then `leakage.py` and `hygiene.py`. Others import `find.open_tasks`, `segmentation.open_segmentations` and `task.Task`.
"""
