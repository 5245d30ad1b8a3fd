"""What a sweep ran on: versions, device, and a fingerprint of precis' own code."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "ml_dtypes", "numpy", "precis")

# What reads records cannot change them.
_READERS = ("cli", "report", "stats")


def fingerprint() -> str:
    """Sixteen hex digits that change with any line of precis that can change a trial's bits."""
    house = Path(__file__).parents[1]
    found = hashlib.sha256()
    for path in sorted(house.rglob("*.py")):
        name = path.relative_to(house)
        if name.parts[0] not in _READERS:
            found.update(name.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment(*, workers: int) -> dict[str, Any]:
    """`env.json`: what the process that calls it runs on. Starts jax."""
    import jax

    from precis.train.step import COMPILER_OPTIONS

    device = jax.devices()[0]
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "python": platform.python_version(),
        **versions,
        "fingerprint": fingerprint(),
        "platform": device.platform,
        "device": _processor() if device.platform == "cpu" else device.device_kind,
        "cores": cores(),
        "compiler_options": COMPILER_OPTIONS,
        "workers": workers,
    }


def _version(name: str) -> str | None:
    """None for a package that is on the path without being installed, as precis may be."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's name: jax calls every one of them `cpu`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
