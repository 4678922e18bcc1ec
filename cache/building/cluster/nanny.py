"""Keep a local worker process going, and end it at once when all is done."""

from __future__ import annotations

from distributed import Nanny


class LocalNanny(Nanny):
    """Starts a worker process, and another when that one dies."""

    done = False
    """Whether nothing that the worker has is needed: all that it made is in the store."""

    async def kill(self, timeout: float = 5, reason: str = "nanny-kill") -> None:
        """End the worker process; one that is done is not asked to, as unloading torch takes seconds."""
        if self.done and self.process is not None and self.process.process is not None:
            await self.process.process.kill()
        await super().kill(timeout, reason)
