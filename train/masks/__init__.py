"""Draw context and target masks as pure functions of seed, step and row.

Read `multiblock.py` first: it draws the masks of a batch. `blocks.py` sizes and places their blocks, `patch_sets.py`
holds the sets of patches as bits, `groups.py` sorts a batch by mask length, `tensors.py` holds a batch's masks on the
device. Others import `sample_masks`, `Masks`, `MaskTensors` and `Group`. This room imports `counter` alone.
"""
