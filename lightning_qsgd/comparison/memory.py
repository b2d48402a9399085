"""The peak memory of one run in a process that does many."""

import contextlib
import gc
from pathlib import Path

import torch


def reset_peak() -> None:
    """Let the system count this process's peak from here on (Linux)."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int | None:
    """Bytes of memory that this process had at most since the reset (Linux; of the GPU, where there is one), or None.

    A worker keeps what its earlier runs have imported.
    """
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
