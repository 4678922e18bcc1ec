"""Make latents narrower or pack them; the layer keeps what leads back.

Read `coding.py` (what a layer keeps) with `rotation.py` (outliers spread evenly) and `nibbles.py` (two values in a
byte), then `principal.py` (axes found in a sample). docs/smaller.md gives the reasons.

Other rooms import `coding` and `principal`; `store.precision` alone imports the others.
"""
