"""The results of a comparison's runs and their provenance: one JSON file, from which reports are made."""

import functools
import importlib.metadata
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_qsgd.comparison.spec import Comparison
from lightning_qsgd.files import atomic_write, structured

FILE = "results.json"
FORMAT = 1
Phase = Literal["tuning", "evaluation"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass
class Run:
    """One run of a comparison.

    Attributes:
        arm, seed: identify the run, together with phase and config.
        phase: "tuning" or "evaluation".
        status: "finished"; "diverged" if loss or gradients were not finite; "failed" for any other error.
        config: hash of the configuration without seeds.
        error: the error in one line, if the run did not finish.
        values: tuned settings by dotted key, without those of the base.
        curve: columns of equal length with one row per evaluation: epoch, step, examples, seconds (of training only),
            train/loss_epoch (if logged) and all validation metrics. None for a value that was not finite.
        averaged: validation metrics at the end with exponentially averaged weights (decay 0.99 per step).
        test: test metrics at the end, if the specification asks for them.
        cost: seconds, evaluation_seconds, parameters (number of trainable ones), steps, examples, circuits, shots,
            circuit_seconds, and peak_memory (bytes; None if the system does not report it).
        live: medians over the run of the perturbation's statistics (norm_ratio, offset, spread, learning_rate_factor,
            touched, effective, ...; none without a perturbation). For quantum parameters: quantum_parameters (number of
            tensors), and the names of those that were unregistered, without_gradient, unmoved or unobservable.
        hashes: parameters (digest of all initial values, a key of ``Results.parameter_sets``), batches and seeds (one
            digest per epoch, of all steps so far), and validation (digest of the validation batches).
        host: processor, cores, memory, commit, and started (ISO 8601).
    """

    arm: str
    seed: int
    phase: Phase
    status: Literal["finished", "diverged", "failed"]
    config: str = ""
    error: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    curve: dict[str, list[float | None]] = field(default_factory=dict)
    averaged: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float | None] = field(default_factory=dict)
    live: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, Any] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)


@dataclass
class Results:
    """A comparison and its runs so far.

    Attributes:
        comparison: the specification.
        provenance: command, commit, versions, hardware, started, updated, complete (whether no run is missing), and
            declared, if it was recorded: "at" (time), "what" (:meth:`Comparison.declaration` before the first
            evaluation run), and "changes" since then.
        arms: for each arm, values (tuned settings), default (these settings untuned), and sine (whether the arm trains
            with the closed-form sine). For tuned arms also trials (dicts of values and mean score), and edge (settings
            whose best value is on the edge of the tried ones).
        targets: values of the metric to reach, by name: for example "0.9", and "tuned baseline" from the tuning seeds.
        parameter_sets: for the digest of all initial values, the digest of each parameter, by name.
        runs: runs of both phases.
    """

    comparison: Comparison
    provenance: dict[str, Any] = field(default_factory=dict)
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)
    parameter_sets: dict[str, dict[str, str]] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)

    @classmethod
    def load(cls, folder: str | Path) -> "Results":
        """Read ``results.json``, given the file or the folder of a comparison.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if it does not hold results, or has another version's format.
        """
        path = Path(folder)
        path = path / FILE if path.suffix != ".json" else path
        if not path.is_file():
            raise FileNotFoundError(f"No {path}; make one with: lightning-qsgd compare --config FILE")
        try:
            values = json.loads(path.read_text())
            if values.pop("format") != FORMAT:
                raise ValueError("another version wrote it, in another format")
            return structured(values, cls)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} does not hold a comparison's results: {error}; delete it, and compare makes it again from "
                "the run folders"
            ) from error

    def save(self, folder: str | Path) -> None:
        """Write ``results.json`` completely or not at all, with one line per run."""
        values = {"format": FORMAT, "comparison": self.comparison.to_dict(), "provenance": self.provenance}
        values |= {"arms": self.arms, "targets": self.targets, "parameter_sets": self.parameter_sets}
        runs = ",\n".join(json.dumps(asdict(run), allow_nan=False) for run in self.runs)
        with atomic_write(Path(folder) / FILE) as file:
            head = json.dumps(values, indent=1, allow_nan=False)
            file.write(f'{head[:-2]},\n "runs": [\n{runs}\n]}}\n')

    def of(self, arm: str, phase: Phase = "evaluation") -> dict[int, Run]:
        """The runs of an arm by seed."""
        return {run.seed: run for run in self.runs if run.arm == arm and run.phase == phase}

    def value(self, run: Run, summary: Literal["last", "final", "best", "averaged"] = "last") -> float:
        """The primary metric of a run as one number, in the metric's unit and direction.

        Args:
            run: one of ``runs``.
            summary: "last": mean over the last evaluations; "final": the last evaluation; "best": the best evaluation;
                "averaged": at the end with averaged weights. Default: "last".

        Returns:
            The number. If the run diverged, or one of its last evaluations was not finite, the worst value of any run
            in the comparison, so that it counts and ranks last. NaN for a failed run, and if there is no such number.
        """
        metric = self.comparison.metric
        if run.status == "diverged":
            return self.worst()
        if run.status == "failed":
            return math.nan
        if summary == "averaged":
            return run.averaged.get(metric.name, math.nan)
        whole = run.curve.get(metric.name, [])
        curve = [value for value in whole if value is not None]
        if not curve:
            return math.nan
        if None in whole[-metric.last :]:  # the metric itself was not finite
            return self.worst()
        if summary == "best":
            return max(curve) if metric.mode == "max" else min(curve)
        return float(np.mean(curve[-metric.last :])) if summary == "last" else curve[-1]

    def worst(self) -> float:
        """The worst value of the metric in any run."""
        metric = self.comparison.metric
        seen = [value for run in self.runs for value in run.curve.get(metric.name, []) if value is not None]
        return math.nan if not seen else min(seen) if metric.mode == "max" else max(seen)

    def pairs(
        self, arm: str, against: str, summary: Literal["last", "final", "best", "averaged"] = "last"
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], list[int]]:
        """Paired values of two arms. Higher is better: values of a minimized metric are negated.

        Returns:
            Values of ``arm``, values of ``against``, each (seeds,) float64, and the seeds for which both have a value.
        """
        sign = self.comparison.metric.sign
        one, other = self.of(arm), self.of(against)
        both = [(self.value(one[s], summary), self.value(other[s], summary), s) for s in sorted(one.keys() & other)]
        kept = [row for row in both if not math.isnan(row[0]) and not math.isnan(row[1])]
        a, b, seeds = zip(*kept, strict=True) if kept else ((), (), ())
        return sign * np.array(a), sign * np.array(b), [int(seed) for seed in seeds]

    def counts(self, arm: str) -> dict[str, int]:
        """The number of evaluation runs of an arm by status."""
        statuses = [run.status for run in self.of(arm).values()]
        return {status: statuses.count(status) for status in ("finished", "diverged", "failed")}


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the finite values; None if there are none."""
    there = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(there)) if there else None


PACKAGES = ("lightning-qsgd", "torch", "lightning", "torchmetrics", "numpy", "scipy", "qiskit", "qiskit-aer")
PACKAGES += ("qiskit-machine-learning",)


def provenance() -> dict[str, Any]:
    """Command, commit (with "+" if files have changed since; None outside a checkout), versions and hardware."""
    return {"command": command(), "commit": commit(), "versions": versions(), "hardware": machine()}


def command() -> str:
    """The command line of this process, without the path of Python."""
    arguments = sys.argv[1:]
    return shlex.join(["lightning-qsgd", *arguments])


@functools.cache
def commit() -> str | None:
    """The commit of the checkout; None outside a checkout."""
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
    """The versions of Python and of the installed libraries that affect numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def machine() -> dict[str, Any]:
    """Processor, cores, memory (GB) and GPU, without the name of the machine."""
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
