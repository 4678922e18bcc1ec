"""Time a training step: `python -m benchmarks.step`, and `python -m benchmarks.step.peers` beside another project."""
