"""Look at the devices that torch computes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from usjepa.cache.doctor.finding import Finding, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator


def devices() -> Iterator[Finding]:
    """Yield a line per GPU, or why there is none, and torch's threads."""
    if torch.cuda.is_available():
        backend = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            half = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: set cache.teacher.compute=fp16"
            yield Finding(f"cuda:{number}", f"{about.name}, {size_text(about.total_memory)}, {half}; {backend}")
    elif torch.backends.mps.is_available():
        yield Finding("mps", "Apple's GPU; --device mps is not tried by the tests", "note")
    else:
        built = torch.version.cuda or torch.version.hip
        why = f"torch is built for {built}, and finds no GPU (driver?)" if built else "torch is built for the CPU alone"
        yield Finding("device", f"cpu: {why}. Large teachers are slow there: `usjepa-cache plan` says how slow", "note")
    yield Finding("torch", f"{torch.get_num_threads()} threads; OMP_NUM_THREADS sets another number")
