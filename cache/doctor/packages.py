"""Compare the packages that are installed with those that this version asks for."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from usjepa.cache.doctor.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = "usjepa"
SHOWN = ("torch", "timm", "zarr", "numpy", "h5py", "av", "pydicom", "xxhash", "dask", "obstore")
"""Those whose versions a report of a fault should name."""
SERVES = {
    "tensorboard": "train.tensorboard=true writes no events without it",
    "wandb": "train.trackers can't name it without it",
    "mlflow": "train.trackers can't name it without it",
    "volumes": "NIfTI, MetaImage and NRRD files are not read without it",
}
"""Extra -> what is lost without it. An extra that is not named here is of no use to users."""


def packages() -> Iterator[Finding]:
    """Yield the versions, what is needed and lacks, and which extras are not whole."""
    yield Finding("usjepa", f"{_installed(OURS) or 'run from its sources'} on {_python()}")
    yield Finding("versions", ", ".join(f"{name} {_installed(name) or '(none)'}" for name in SHOWN))
    needed, extras = _requirements()
    lacking = [fault for requirement in needed if (fault := _fault(requirement))]
    if lacking:
        yield Finding("packages", f"{'; '.join(lacking)}. Run: pip install --upgrade usjepa", "lack")
    else:
        yield Finding("packages", f"all {len(needed)} that are needed, in versions that fit")
    for extra, serves in SERVES.items():
        if extra not in extras:
            continue  # an installed version that has no such extra yet
        faults = [fault for requirement in extras[extra] if (fault := _fault(requirement))]
        if faults:
            yield Finding(f"[{extra}]", f"{'; '.join(faults)}: {serves}. Run: pip install 'usjepa[{extra}]'", "note")
        else:
            yield Finding(f"[{extra}]", "there")


def _python() -> str:
    return f"Python {platform.python_version()}, {platform.system()} {platform.release()} {platform.machine()}"


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """Return what is needed here, and what each extra asks for."""
    try:
        texts = metadata.requires(OURS) or []
    except metadata.PackageNotFoundError:
        return [], {}
    asked = [Requirement(text) for text in texts]
    needed = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    of_extras = {
        extra: [one for one in asked if one not in needed and one.marker and one.marker.evaluate({"extra": extra})]
        for extra in metadata.metadata(OURS).get_all("Provides-Extra") or ()
    }
    return needed, of_extras


def _fault(requirement: Requirement) -> str:
    """Return what is wrong with a package; "" where it is there and fits."""
    version = _installed(requirement.name)
    if version is None:
        return f"{requirement.name} is not installed"
    fits = requirement.specifier.contains(version, prereleases=True)
    return "" if fits else f"{requirement.name} is {version}, and {requirement.specifier} is needed"
