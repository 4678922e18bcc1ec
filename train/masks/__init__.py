"""Draw context and target masks as pure functions of seed, step and row.

Read `multiblock.py` first: it draws the masks of a batch. `blocks.py` sizes and places their blocks, `patch_sets.py`
holds the sets of patches as bits, `groups.py` sorts a batch by mask length. Others import `sample_masks`, `Masks`,
`groups_of` and `Group`. This room imports `counter` alone.
"""
