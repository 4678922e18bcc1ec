"""Find labelled tasks on disk, split them by patient, and report their faults.

Reading order: `base.py` (a layout), `layouts.py` and the room `published`, `cut.py`, `find.py`, `task.py`, `splits.py`,
`crossing.py`; then `measurements.py` with `regression.py`, `leakage.py` with `name_groups.py`, and `hygiene.py`. Others
import `find.open_tasks`, `crossing.add_crossed`, `regression.open_regressions`, `segmentation.open_segmentations` and
`task.Task`.
"""
