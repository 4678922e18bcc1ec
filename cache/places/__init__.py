"""Say where rows come from, in memory proportional to clips and not to rows.

Read `runs.py` (which rows) first, then `stretches.py` (of which sources and frames they are). `store` describes its
tables so; a training orders its epochs by them. `digests.py` stands for names where all of them are compared,
`packed.py` holds records of text, `siblings.py` the names in folders, `growing.py` columns of a table that is made in
parts, in a `Spill`, which is a temporary file once it is large. Others import `Runs`, `Stretches`, `Packed`,
`Siblings`, `GrowingColumn`, `Spill`, `digests` and `short_hashes`.
"""
