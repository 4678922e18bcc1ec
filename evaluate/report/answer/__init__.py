"""Hold the first screen of a report: a sentence, a chart, three frames.

Reading order: `standing.py` (where the run's encoder stands on a task), `sentence.py` (that in words), `dots.py` (every
encoder with its interval), `shown.py` with `overlay.py` (three frames as
the encoder sees them). Others import the first four.
"""
