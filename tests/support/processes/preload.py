"""What the parent of forked children imports once."""

import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import timm  # noqa: F401
import torch

from usjepa.cache.building import build, pipeline, prepare, recheck  # noqa: F401
from usjepa.cache.building.cluster import client  # noqa: F401
from usjepa.evaluate import run  # noqa: F401
from usjepa.train.run import loop  # noqa: F401

# A child forked from a parent whose OpenMP threads are running would hang: the parent never starts them.
torch.set_num_threads(1)
