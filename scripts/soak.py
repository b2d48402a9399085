"""Run many fits in one process, to find leaks of memory, threads and open files.

    python scripts/soak.py --fits 200

Each fit is a whole run of the command line with a small model on the main job's data, with surrogate, both loggers,
checkpoints and validation. Slopes are those of a line through the numbers after each fit (scipy.stats.linregress),
without the first fits. The script needs Linux (/proc). It exits with code 1 if a slope is above its limit.
"""

import argparse
import contextlib
import gc
import io
import logging
import os
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import linregress

from lightning_qsgd.cli import main as run

NAMES = ("resident memory, kB", "threads", "open files", "objects")
#: Per fit. Memory: 1000 fits then take less than a tenth of a GB; objects are those that Python's collector tracks.
LIMITS = (100.0, 0.01, 0.01, 5.0)


def measure() -> tuple[float, float, float, float]:
    """Resident memory (kB), threads, open file descriptors, and objects of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    threads = len(os.listdir("/proc/self/task"))
    assert threads >= threading.active_count()
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024, threads, len(os.listdir("/proc/self/fd")), len(gc.get_objects())


def soak(fits: int, steps: int, folder: str | Path, arguments: list[str] | None = None) -> NDArray[np.float64]:
    """Numbers after each fit, (fits, 4), in the order of ``NAMES``.

    Args:
        fits: how many.
        steps: optimizer steps of each.
        folder: where the runs go.
        arguments: further ones of the command line.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rows = []
    for number in range(fits):
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run([
                "fit", "--config", "configs/seqcls.yaml", f"--trainer.default_root_dir={folder}",
                "--model.embed_dim=16", "--model.num_heads=2", "--model.feedforward_dim=32", "--model.num_layers=1",
                "--trainer.max_epochs=2", f"--seed_everything={number}",
                f"--data.train_size={16 * steps}", "--data.val_size=64",
                "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
                "--trainer.accelerator=cpu", "--monitor.every_n_steps=10", *(arguments or []),
            ])  # fmt: skip
        rows.append(measure())
    return np.array(rows, dtype=np.float64)


def slopes(rows: NDArray[np.float64], skip: int) -> list[tuple[float, float]]:
    """Slope per fit and its standard error, for each column, without the first ``skip`` fits."""
    fitted = [linregress(np.arange(skip, len(rows)), column[skip:]) for column in rows.T]
    # The error of a constant is NaN.
    return [(float(line.slope), float(np.nan_to_num(line.stderr))) for line in fitted]  # pyright: ignore[reportAttributeAccessIssue]


def too_steep(found: list[tuple[float, float]]) -> list[str]:
    """The names of numbers whose slope exceeds its limit by more than two standard errors."""
    return [name for name, (slope, error), limit in zip(NAMES, found, LIMITS, strict=True) if slope - 2 * error > limit]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=int, default=200)
    parser.add_argument("--steps", type=int, default=50, help="number of optimizer steps of each fit, in two epochs")
    parser.add_argument("--skip", type=int, default=20, help="number of first fits to leave out")
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = soak(options.fits, options.steps, folder)
    found = slopes(rows, options.skip)
    each = (time.perf_counter() - start) / options.fits
    title = f"{options.fits} fits of {options.steps} steps in one process, {each:.2f} s each"
    table = Table("", f"after fit {options.skip + 1}", "after the last", "slope per fit", "limit", title=title)
    for name, column, (slope, error), limit in zip(NAMES, rows.T, found, LIMITS, strict=True):
        table.add_row(
            name, f"{column[options.skip]:.0f}", f"{column[-1]:.0f}", f"{slope:.3f} +- {error:.3f}", str(limit)
        )
    Console(width=120).print(table)
    if grown := too_steep(found):
        sys.exit(f"Too steep: {', '.join(grown)}")


if __name__ == "__main__":
    main()
