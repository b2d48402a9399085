"""What a comparison's runs gave, and where they come from: one JSON file, from which reports are made."""

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
    """One run.

    Attributes:
        arm, seed: which one.
        phase: "tuning" or "evaluation".
        status: "finished"; "diverged": loss or gradients were not finite; "failed": any other error.
        config: hash of its configuration without seeds.
        error: one line, where it did not finish.
        values: tuned settings, by dotted key; those of the base are not repeated.
        curve: columns of equal length, one row for each evaluation: epoch, step, examples, seconds (of training
            alone), train/loss_epoch (where logged) and all validation metrics. None where a value was not finite.
        averaged: validation metrics at the end with exponentially averaged weights (decay 0.99 a step).
        test: test metrics at the end, where the specification asks for them.
        cost: seconds, evaluation_seconds, steps, examples, circuits, shots, circuit_seconds, peak_memory (bytes; None
            where the system does not tell).
        live: medians of the perturbation's statistics over the run (norm_ratio, offset, spread, learning_rate_factor,
            touched, effective, ...; empty without one), and of its quantum parameters: quantum_parameters (number of
            tensors), and those that were unregistered, without_gradient, unmoved, unobservable (names).
        hashes: parameters (digest of all initial values, a key of ``Results.parameter_sets``), batches and seeds (one
            digest of all steps so far for each epoch), validation (of the validation batches).
        host: its processor, cores, memory; commit; started (ISO 8601).
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
        provenance: command, commit, versions, hardware, started, updated, complete (whether all runs are there), and
            declared: "at" (time), "what" (:meth:`Comparison.declaration` before the first evaluation run), "changes"
            (what is different now); without it nobody knows what was declared when.
        arms: of each arm: values (tuned settings), default (the same settings untuned), sine (whether it trains with
            the closed-form sine); and where it was tuned, trials (list of values, score per tuning seed), and edge
            (whether the best lies on the edge of what was tried).
        targets: the metric's targets by name: "0.9", and "tuned baseline", frozen on the tuning seeds.
        parameter_sets: initial values of parameters: digest of all -> name -> digest.
        runs: of both phases.
    """

    comparison: Comparison
    provenance: dict[str, Any] = field(default_factory=dict)
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)
    parameter_sets: dict[str, dict[str, str]] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)

    @classmethod
    def load(cls, folder: str | Path) -> "Results":
        """Read ``results.json`` of a comparison's folder, or such a file.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is no such file, or of another format.
        """
        path = Path(folder)
        path = path / FILE if path.suffix != ".json" else path
        if not path.is_file():
            raise FileNotFoundError(f"No {path}; make one with: lightning-qsgd compare --config FILE")
        try:
            values = json.loads(path.read_text())
            if values.pop("format") != FORMAT:
                raise ValueError("its format is another version's")
            return structured(values, cls)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is no comparison's results: {error}; without it, compare makes it anew from the run folders"
            ) from error

    def save(self, folder: str | Path) -> None:
        """Write ``results.json``, completely or not at all: one line for each run."""
        values = {"format": FORMAT, "comparison": self.comparison.to_dict(), "provenance": self.provenance}
        values |= {"arms": self.arms, "targets": self.targets, "parameter_sets": self.parameter_sets}
        runs = ",\n".join(json.dumps(asdict(run), allow_nan=False) for run in self.runs)
        with atomic_write(Path(folder) / FILE) as file:
            head = json.dumps(values, indent=1, allow_nan=False)
            file.write(f'{head[:-2]},\n "runs": [\n{runs}\n]}}\n')

    def of(self, arm: str, phase: Phase = "evaluation") -> dict[int, Run]:
        """Runs of an arm by seed."""
        return {run.seed: run for run in self.runs if run.arm == arm and run.phase == phase}

    def value(self, run: Run, summary: Literal["last", "final", "best", "averaged"] = "last") -> float:
        """One number of a run, in the metric's own unit and direction.

        Args:
            run: one of ``runs``.
            summary: "last" (default): the primary metric, the mean of the last evaluations; "final": the last one;
                "best"; "averaged": at the end with averaged weights.

        Returns:
            The number. For a diverged run, and one whose last evaluations were not finite, the worst value that any run
            of the comparison has shown: it counts, and ranks last. NaN for a failed run, and where there is no such
            number.
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
        """The worst value of the metric that any run has shown."""
        metric = self.comparison.metric
        seen = [value for run in self.runs for value in run.curve.get(metric.name, []) if value is not None]
        return math.nan if not seen else min(seen) if metric.mode == "max" else max(seen)

    def pairs(
        self, arm: str, against: str, summary: Literal["last", "final", "best", "averaged"] = "last"
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], list[int]]:
        """Paired values of two arms, higher is better (values of a metric that is minimized change sign).

        Returns:
            Values of ``arm`` and of ``against``, (seeds,) each, and the seeds that both have a value of.
        """
        sign = self.comparison.metric.sign
        one, other = self.of(arm), self.of(against)
        both = [(self.value(one[s], summary), self.value(other[s], summary), s) for s in sorted(one.keys() & other)]
        kept = [row for row in both if not math.isnan(row[0]) and not math.isnan(row[1])]
        a, b, seeds = zip(*kept, strict=True) if kept else ((), (), ())
        return sign * np.array(a), sign * np.array(b), [int(seed) for seed in seeds]

    def counts(self, arm: str) -> dict[str, int]:
        """Evaluation runs of an arm by status."""
        statuses = [run.status for run in self.of(arm).values()]
        return {status: statuses.count(status) for status in ("finished", "diverged", "failed")}


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that there are; None of none."""
    there = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(there)) if there else None


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
