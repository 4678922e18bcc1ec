"""Look at an installation, a machine and a place for stores, and say what lacks.

Read `finding.py` first: a line, and how grave it is. `packages.py` compares what is installed with what is asked for,
`machine.py` looks at processors, memory and limits, `devices.py` at GPUs, `place.py` times a folder or a bucket. Only
the command `usjepa-cache doctor` imports this room, which changes nothing but a test file that it removes again.
"""
