"""Train a run: plan it, loop over its steps, validate, checkpoint, resume.

Read `loop.py` first, then `plan.py` (what is fixed before the first step; `opening.py` opens its stores, `holding.py`
keeps others from its folder), `state.py` (what steps change) and `step.py`. `schedule.py` gives the rates, `ranks.py`
shares the work, `validate.py`, `insight.py` and `probing.py` measure the encoder, the room `exports` writes it.
`contrast.py` is the step on pairs, `computing.py` what both steps share. Others import `train`, `make_plan`, `Ranks`
and the steps of `step.py`. This room imports `probe`, `data`, `model`, `objective` and `record`.
"""
