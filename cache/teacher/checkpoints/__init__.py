"""Read other people's weights without running anything, choose one set, and load it whole.

Read `files.py` first (a file or folder becomes plain containers and tensors), then `stand_ins.py` (what becomes of
pickled Python objects), `sets.py` (which of a file's weights are meant), `weights.py` (the two together) and
`loading.py` with `positions.py` (into a model, strictly). Others import `read_weights`, `Weights`, `load_into`,
`LoadReport` and `weights_hash`.
"""
