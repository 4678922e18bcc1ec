"""What the parent of forked children imports once."""

import timm  # noqa: F401
import torch

import usjepa.cache.building.build
import usjepa.train.run.loop  # noqa: F401

# A child forked from a parent whose OpenMP threads are running would hang: the parent never starts them.
torch.set_num_threads(1)
