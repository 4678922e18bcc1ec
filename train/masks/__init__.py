"""Draw context and target masks as pure functions of seed, step and row.

Read `multiblock.py` first, then `blocks.py`, `patch_sets.py` and `groups.py`. Others import `sample_masks`.
"""
