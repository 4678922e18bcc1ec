"""Choose the torch device that computes, wait for it, and name it."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import torch

from usjepa.cache.errors import UsageError
from usjepa.cache.identity import soft_versions

if TYPE_CHECKING:
    from usjepa.cache.identity import Json


def choose_device(text: str | None) -> torch.device:
    """Return the device that `--device` names; none: a GPU when there is one, else the CPU.

    Raises:
        UsageError: torch has no such device, or not on this machine.
    """
    try:
        device = torch.device(text or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled for the device
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"--device {text}: not usable here ({reason}). Give cpu, cuda or cuda:N.") from error
    if device.type == "meta":
        raise UsageError("--device meta: it computes nothing. Give cpu, cuda or cuda:N.")
    return device


def synchronise(device: torch.device) -> None:
    """Wait until a device has computed everything that was queued on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def soft_identity(device: torch.device) -> dict[str, Json]:
    """Return the versions and the device that latents were computed with; recorded, never in the way."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type != "cpu":
        name = f"{device.type} {platform.processor()}".rstrip()
    else:
        name = f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return {**soft_versions(["timm", "torch", "usjepa"]), "device": name, "system": platform.system()}
