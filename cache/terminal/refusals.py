"""Say what the system refused, where, and what to do about it."""

from __future__ import annotations

import errno
import re
import sys

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FREE_SPACE = "Free some space and run the same command again."
_PERMISSIONS = "Change its permissions, or give another place."
_CHECK_PATH = "Check the path."
_ADVICE = {
    **dict.fromkeys(FULL, _FREE_SPACE),
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.EROFS: "It can't be written: give another place.",
    errno.ENOENT: _CHECK_PATH,
    errno.ENOTDIR: "A file lies where a folder should be. Check the path.",
    errno.EISDIR: "A folder lies where a file should be. Check the path.",
    errno.EEXIST: _CHECK_PATH,
    errno.EINVAL: _CHECK_PATH,
    errno.ENAMETOOLONG: "Give a shorter name.",
    errno.ELOOP: "Symbolic links lead in a circle there. Check the path.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.ENFILE: "The machine has too many files open. Run the same command again later.",
    errno.ENOMEM: "Free some memory and run the same command again.",
    errno.ESTALE: "The share lost the file. Check that it is still mounted and run the same command again.",
}
_OTHERWISE = "See the system's log; run the same command again."
_SMALLER = "smaller batches (cache.teacher.batch_size, train.batch_size)"
_CPU_OUT_OF_MEMORY = re.compile(
    r"DefaultCPUAllocator: .*(tried to allocate \d+ bytes)|(could not (?:create|execute) a primitive)"
)
"""Matches the plain RuntimeErrors that torch raises when the CPU has too little memory."""
_GPU_OUT_OF_MEMORY = re.compile(r"out of memory|(CUBLAS|CUDNN|CUSOLVER)_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)")
_GPU = re.compile(r"CUDA error|CUDA driver|cuDNN|CUBLAS|NCCL|HIP error")


def advice(error: OSError) -> str:
    """Return what to do about an error of the system, as one sentence or two."""
    return _ADVICE.get(error.errno or 0, _OTHERWISE)


def refusal(error: OSError | MemoryError | RuntimeError | ImportError) -> str | None:
    """Return what the system or the GPU refused, where, and what to do; None for an error of ours."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror or error}. {advice(error)}"
    if isinstance(error, MemoryError):
        return f"out of memory ({error}). {_ADVICE[errno.ENOMEM]}"
    if isinstance(error, ImportError):
        return _of_library(error)
    first = str(error).strip().partition("\n")[0].rstrip(".")
    if found := _CPU_OUT_OF_MEMORY.search(str(error)):
        return f"out of memory ({found[1] or found[2]}). Set {_SMALLER}, or free some memory."
    torch = sys.modules.get("torch")  # if it is not imported, the error is not its
    if torch is None:
        return None
    if isinstance(error, torch.OutOfMemoryError) or _GPU_OUT_OF_MEMORY.search(first):
        return f"{first}. Set {_SMALLER}, free the GPU, or use --device cpu."
    if isinstance(error, torch.AcceleratorError) or _GPU.search(first):
        return f"{first}. {_OTHERWISE}"
    return None


def _of_library(error: ImportError) -> str | None:
    """Return why a compiled library can't be loaded; None for a module of ours that is not there."""
    if isinstance(error, ModuleNotFoundError) or (error.path is None and ".so" not in str(error)):
        return None
    return f"{error}. The installation is not whole, or the process has too little memory (ulimit -v)."
