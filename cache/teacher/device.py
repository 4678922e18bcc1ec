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


def choose_devices(text: str) -> list[str]:
    """Return the devices that `--devices` names, separated by commas.

    Raises:
        UsageError: one is not usable here, or they are of several kinds, whose last bits may differ.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UsageError(f"--devices {text}: give devices separated by commas, such as cuda:0,cuda:1.")
    kinds = {name: str(soft_identity(choose_device(name))["device"]) for name in names}
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{name} is {kind}" for name, kind in kinds.items())
        raise UsageError(f"--devices {text}: {told}. Their last bits may differ: give devices of one kind.")
    return names


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
