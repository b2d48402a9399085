"""Where results come from: command, commit, versions, hardware."""

import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("lightning-qsgd", "torch", "lightning", "torchmetrics", "numpy", "scipy", "qiskit", "qiskit-aer")
PACKAGES += ("qiskit-machine-learning",)


def provenance() -> dict[str, Any]:
    """Command, commit ("+" where files have changed since; None outside of a checkout), versions, hardware."""
    return {"command": command(), "commit": commit(), "versions": versions(), "hardware": machine()}


def command() -> str:
    """How this process was called, without the place of Python."""
    arguments = sys.argv[1:]
    return shlex.join(["lightning-qsgd", *arguments])


@functools.cache
def commit() -> str | None:
    """The checkout's commit."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        call = functools.partial(subprocess.run, capture_output=True, text=True, check=True, cwd=root)
        head = call(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        changed = call(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def versions() -> dict[str, str]:
    """Of Python and of the libraries that numbers depend on, where they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def machine() -> dict[str, Any]:
    """Processor, cores, memory (GB), GPU; no name of the machine."""
    found: dict[str, Any] = {"system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count()}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found["processor"] = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        found["processor"] = platform.processor()
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_GB"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found
