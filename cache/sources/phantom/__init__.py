"""Simulate ultrasound frames of patients with lesions whose truth is known.

Read `source.py` first, then `physics.py`, `tissue.py`, `lesions.py` and `overlay.py` (text and rulers around the scan).
Others import `Phantom` and `PhantomReader`.
"""
