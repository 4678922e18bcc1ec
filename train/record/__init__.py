"""Write what a run leaves behind: log, curve, summary and the exported encoder.

Read `log.py` first, then `export.py`.
"""
