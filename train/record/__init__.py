"""Write what a run leaves behind: checkpoints, log, curve, summary and the exported encoder.

Read `folder.py` first: it names the files. `checkpoint.py` saves and restores a run. `log.py` writes the log's
`lines.py`, `salvage.py` saves what it can of a damaged one, `history.py` summarises them for `curve.py` and
`summary.py`. `export.py` writes the encoder, `trained_on.py` what files it learnt from, `publishing.py` puts it on a
hub with the `front_matter.py` of its card. Others import `load_encoder`, `export_encoder`, `EncoderConfig`, `read_log`,
`read_hashes`, `RunLog`, `LossCurve`, `Checkpoints` and the names of the files. This room imports none of train but
`tracking`. docs/reference/run-folder.md says what proves which file.
"""
