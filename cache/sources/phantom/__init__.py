"""Simulate ultrasound frames of patients with lesions whose truth is known.

Read `source.py` first, then `physics.py`, `tissue.py`, `lesions.py` and `interface.py` (the screen around the scan).
Others import `Phantom`.
"""
