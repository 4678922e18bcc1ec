"""What is known of a layer's shards, as numbers in memory that compiled code looks up by itself."""

from __future__ import annotations

import numpy as np


class ShardTable:
    """A column a shard; 0 says that nothing is known. Of one process.

    Set by whoever opens files and reads trailers, read at any time by the threads in the compiled loop: each number is
    one word, so that it is the old or the new one, and a `Grace` keeps what an old one names.
    """

    def __init__(self, shards: int) -> None:
        """Memory is taken when a shard is first read: zeros that nobody has asked for cost none."""
        self.columns = np.zeros((4, shards), np.int64)
        self.files, self.offsets, self.hashes, self.used = self.columns
        """Each [shards]: the open file's descriptor + 1; the addresses of the trailer's [rows] int64 offsets and of its
        [rows] uint64 hashes; 1 where the loop has used the file since that was last looked at."""
