"""Compare two finished reports, or two encoders, on classes, numbers and masks.

Reading order: `comparison.py` (what is asked and told), `pairs.py` (two scores in the same draws), `compare.py`.
Others import `compare.compare` and `comparison.Question`.
"""
