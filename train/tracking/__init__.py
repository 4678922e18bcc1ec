"""Send the lines of a run's log to trackers.

Read `tracker.py` first: what a tracker is, and the numbers of a line. `opening.py` opens those that the recipe names;
`tensorboard.py` writes files; `wandb.py` and `mlflow.py` talk to services, behind `background.py`, which keeps one that
is slow or dead from holding up the run. Others import `Tracker` and `open_trackers`. It imports no room of train.
"""
