"""Do on one GPU, in one go, all that a machine without one can't.

`__main__.py` runs the parts, each in a process of its own and within its time; `parts.py` lists them; `batch_size.py`,
`beside_step.py` and `two_ranks.py` are those that no other benchmark has.
"""
