"""Hold what a report shows of regression: its records and its chart.

Reading order: `records.py` (what the document keeps), `scatter.py` (predicted against true). Others import both.
"""
