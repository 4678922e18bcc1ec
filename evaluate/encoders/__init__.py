"""Load frozen encoders and baselines, and keep their features.

Read `encoders.py` first, then `features.py`; each family of encoders has one file.
"""
