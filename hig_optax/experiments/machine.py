"""The machine a run took place on, and how many of its cores it may use."""

import os
import platform
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("hig-optax", "jax", "jaxlib", "optax", "flax", "numpy")


def use_cores(count: int) -> None:
    """Restrict this process to `count` cores, where the system allows it; 0 leaves it alone.

    Call it before JAX starts a backend, which sizes its thread pool by the cores it finds then.
    The highest-numbered cores are taken: interrupts tend to arrive on the first.
    """
    if count > 0 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-count:])


def num_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def precision_of(problem: Any) -> AbstractContextManager[Any]:
    """The float type that a problem asks for while this lasts; without such a wish, as it was."""
    wanted = getattr(problem, "precision", None)
    return nullcontext() if wanted is None else jax.enable_x64(wanted == "float64")


def environment() -> dict[str, Any]:
    """What a measured time depends on besides the code, as JSON values."""
    return {
        "cpu": _cpu_model(),
        "cores": num_cores(),
        "cores_in_machine": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "float": "float64" if jax.config.read("jax_enable_x64") else "float32",
        "versions": {"python": platform.python_version(), **_versions()},
    }


def describe(where: dict[str, Any]) -> str:
    """One sentence from an `environment`, for the foot of a table."""
    cores = f"{where['cores']} core{'s' if where['cores'] > 1 else ''}"
    device = "" if where["device"].lower() == "cpu" else f", {where['device']}"
    versions = ", ".join(f"{k} {v}" for k, v in where["versions"].items())
    return (
        f"{where['cpu']}{device}, {cores} of {where['cores_in_machine']}, {where['float']}; "
        f"{versions}."
    )


def versioned(package: str) -> str:
    """Name and version of a package."""
    return f"{package} {_version(package)}"


def _versions() -> dict[str, str]:
    return {package: _version(package) for package in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
