"""Write the encoders of a run, at its end and while it goes on.

Read `exporting.py` first; `keeping.py` decides which are kept, `card.py` describes an encoder. Others import `export`,
`keep_encoders` and `notes_on_keeping`. This room imports the run's `state.py`, `plan.py` and `opening.py`.
"""
