"""List what is run on a GPU: command, time limit, and what must be there."""

from __future__ import annotations

from dataclasses import dataclass

_GPU_TESTS = ("tests/cache/teacher/test_computing.py", "tests/cache/store/test_precision.py",
              "tests/train/model/test_augment.py")  # fmt: skip

_TINY = ("--architecture", "vit_tiny_patch16_224", "--size", "32")

_TINY = ("--architecture", "vit_tiny_patch16_224", "--size", "32")


@dataclass(frozen=True)
class Part:
    """One command and how long it may take."""

    name: str
    what: str
    arguments: tuple[str, ...]
    """Of the Python interpreter."""
    limit_s: int
    gpus: int = 1
    """How many it needs."""


def parts(small: bool) -> tuple[Part, ...]:
    """Return the parts in order of what is missed most; small ones show on a processor that the command works.

    On an H100 they are expected to take about seven of the twelve minutes; the limits add up to twelve.
    """
    return (
        Part("exactness", "tests of bits and tolerances on a GPU", ("-m", "pytest", "-q", "-rs", *_GPU_TESTS), 90),
        Part("build", "a build in bf16 beside the bare forward pass", _benchmark(
            "build", small, ("--rows", "8192", "--rows-per-shard", "512", "--compute", "bf16", "--free-rows", "0"),
            ("--rows", "16", "--rounds", "2", "--free-rows", "0", "--architecture", "vit_tiny_patch16_224")), 150),
        Part("teacher", "precisions of a teacher, compiled or not", _benchmark(
            "teacher", small, ("--batch", "128", "--rounds", "5"),
            ("--batch", "2", "--rounds", "1", *_TINY)), 150),
        Part("step", "a step with cached targets, targets in memory, a teacher in the loop", _benchmark(
            "step", small, ("--steps", "8", "--rounds", "5", "--batch", "64", "--patients", "16", "--student",
                            "vit_small_patch16_224", "--teacher", "vit_base_patch16_224"),
            ("--steps", "1", "--rounds", "2", "--batch", "2", "--patients", "1", "--teacher", "vit_tiny_patch16_224")),
            150),
        Part("batch size", "images per second by batch size, and the size that is chosen", _benchmark(
            "gpu.batch_size", small, (), ("--most", "4", *_TINY)), 60),
        Part("reading beside a step", "checked batches read while a model trains", _benchmark(
            "gpu.beside_step", small, (), ("--rows", "64", "--seconds", "0.5", "--rounds", "1", "--batch", "2",
                                           "--model", "vit_tiny_patch16_224")), 60),
        Part("two ranks", "two GPUs with NCCL lose what one loses", _benchmark("gpu.two_ranks", small, (), ()), 60, 2),
    )  # fmt: skip


def _benchmark(name: str, small: bool, whole: tuple[str, ...], tiny: tuple[str, ...]) -> tuple[str, ...]:
    return ("-m", f"benchmarks.{name}", *(tiny if small else whole))
