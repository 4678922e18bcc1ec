"""Count which injuries are noticed: `python -m benchmarks.faults`.

`systems.py` keeps rows in the ways that are compared, `run_parts.py` the weights and the log of a training;
`injuries.py` injures their files and says how reading ends.
"""
