"""Write the features of frames, labelled or not, to a file for other tools.

Read `embed.py` first: what is asked of whom, and where it is kept until it is whole. `frames.py` finds the frames,
`writing.py` has a writer per kind of file. Others import `embed`.
"""
