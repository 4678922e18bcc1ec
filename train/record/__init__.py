"""Write what a run leaves behind: checkpoints, log, curve, summary and the exported encoder.

Read `folder.py` first: it names the files. `checkpoint.py` saves and restores a run, `log.py` writes its `lines.py`,
`history.py` summarises them for `curve.py` and `summary.py`, `export.py` writes the encoder. Others import
`load_encoder`, `export_encoder`, `EncoderConfig`, `read_log`, `RunLog`, `Checkpoints` and the names of the files. This
room imports no other room of train.
"""
