"""Compare displaced gradients with Adam, Langevin noise and SAM on rotated Rastrigin and Ackley functions.

All starts of all seeds are rows of one tensor. Every method acts on single coordinates or rows, so that rows are
independent. Shapes: S seeds, N starts of each, D dimensions. Every method gets the same number of gradients and a first
grid of the same size (learning rate, its schedule, and one setting of the method), which is extended if the best value
is on an edge. It is evaluated at its undisplaced final weights, with seeds that tuning did not use.

    python scripts/landscapes.py --output logs/landscapes

You can stop it at any time; run the same command again to continue.
"""

import argparse
import itertools
import json
import math
import platform
import shlex
import sys
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from descents import METHODS, TINY, Function, Method, Schedule, Setting
from grid_search import Axis, Score, Tuning, tune
from landscapes_report import draw, tables
from scipy.stats import special_ortho_group
from torch import Tensor

from lightning_qsgd.files import atomic_write, check_writable
from lightning_qsgd.optim import CosineSchedule

DIMENSIONS = 10
TOLERANCE = 0.1  # of "solved": the local minima next to the global one lie at 1.0 (Rastrigin) and 1.16 (Ackley)
DIVERGED = 1e30  # replaces values that are not finite
FIRST_TUNING_SEED = 1000  # evaluation seeds count from 0


def rastrigin(y: Tensor) -> Tensor:
    """sum of y^2 + 10 (1 - cos 2 pi y): (..., D) to (...)."""
    return (y.square() + 10 * (1 - (2 * math.pi * y).cos())).sum(-1)


def rastrigin_gradient(y: Tensor) -> Tensor:
    """Gradient of :func:`rastrigin`, like y."""
    return 2 * y + 20 * math.pi * (2 * math.pi * y).sin()


def ackley(y: Tensor) -> Tensor:
    """20 (1 - exp(-0.2 rms(y))) + e - exp(mean cos 2 pi y): (..., D) to (...)."""
    rms = y.square().mean(-1).sqrt()
    return 20 * (1 - (-0.2 * rms).exp()) + math.e - (2 * math.pi * y).cos().mean(-1).exp()


def ackley_gradient(y: Tensor) -> Tensor:
    """Gradient of :func:`ackley`, like y; 0 at the tip of its cone, y = 0."""
    rms = y.square().mean(-1, keepdim=True).sqrt()
    cone = 4 * (-0.2 * rms).exp() * y / rms.clamp_min(TINY)
    angles = 2 * math.pi * y
    return (cone + angles.cos().mean(-1, keepdim=True).exp() * 2 * math.pi * angles.sin()) / y.shape[-1]


@dataclass(frozen=True)
class Landscape:
    """A function whose only global minimum is 0, at 0.

    Args:
        name: name of the function.
        bound: starts are uniform in [-bound, bound] in each dimension.
        value, gradient: functions of (..., D) that return (...) and (..., D).
        primary: the metric of tuning: the share of starts that end below TOLERANCE ("solved"), or the median final
            value. The other one breaks ties.
    """

    name: str
    bound: float
    value: Function
    gradient: Function
    primary: Literal["solved", "median"]


LANDSCAPES = (
    Landscape("Ackley", 32.768, ackley, ackley_gradient, "solved"),
    Landscape("Ackley, near", 5.0, ackley, ackley_gradient, "solved"),
    Landscape("Rastrigin", 5.12, rastrigin, rastrigin_gradient, "median"),
)


class Problem:
    """f(R x) with a rotation R and starts of each seed.

    Args:
        landscape: the function f.
        seeds: seeds of rotations, which are uniform on SO(D), and of starts.
        num_starts: number of starts of each seed, N.
        dimensions: number of dimensions, D.

    Attributes:
        rotations: rotations (S, D, D), float64.
        starts: starts (S, N, D), float32, the precision of the methods, as in training.
    """

    def __init__(self, landscape: Landscape, seeds: range, num_starts: int, dimensions: int = DIMENSIONS) -> None:
        self.landscape, self.seeds = landscape, seeds
        streams = [np.random.default_rng(seed) for seed in seeds]
        self.rotations = torch.from_numpy(
            np.stack([special_ortho_group.rvs(dimensions, random_state=r) for r in streams])
        )
        cubes = np.stack([r.uniform(-1, 1, (num_starts, dimensions)) for r in streams])
        self.starts = (landscape.bound * torch.from_numpy(cubes)).float()
        self._by_dtype = {torch.float64: self.rotations, torch.float32: self.rotations.float()}

    def value(self, x: Tensor) -> Tensor:
        """f(R x): (S, N, D) to (S, N), float64."""
        return self.landscape.value(x.double() @ self.rotations.mT)

    def gradient(self, x: Tensor) -> Tensor:
        """Gradient of :meth:`value` to x, (S, N, D), in the precision of x."""
        rotations = self._by_dtype[x.dtype]
        return self.landscape.gradient(x @ rotations.mT) @ rotations


@dataclass(frozen=True)
class Size:
    """The size of a study.

    Attributes:
        starts, tuning_starts: N of each evaluation seed, and of each tuning seed.
        gradients: of each start.
        tuning_seeds, evaluation_seeds: how many.
        count, reach: first values of an axis, and values that it may grow to on either side of its middle.
        records: points of a curve.
    """

    starts: int = 128
    tuning_starts: int = 64
    gradients: int = 2000
    tuning_seeds: int = 2
    evaluation_seeds: int = 10
    count: int = 5
    reach: int = 5
    records: int = 50


QUICK = Size(
    starts=16, tuning_starts=16, gradients=60, tuning_seeds=1, evaluation_seeds=2, count=3, reach=2, records=10
)


def descend(problem: Problem, method: Method, setting: Setting, size: Size, recorded: bool = False) -> list[Tensor]:
    """Values (S, N) after equal shares of the gradients, the last after all; only the last unless ``recorded``.

    What is not finite counts as DIVERGED.
    """
    steps = size.gradients // method.gradients_per_step
    x = problem.starts.clone().requires_grad_()
    optimizer, step = method.make(x, problem.gradient, setting, steps, problem.seeds[0])
    factor = CosineSchedule(1.0, 0.0, steps) if setting.schedule == "cosine" else lambda t: 1.0
    every = steps // size.records if recorded else steps
    values = []
    with torch.no_grad():
        for t in range(steps):
            optimizer.param_groups[0]["lr"] = setting.lr * factor(t)
            step(t)
            if (t + 1) % every == 0:
                values.append(problem.value(x).nan_to_num(nan=DIVERGED, posinf=DIVERGED))
    return values


def score(values: Tensor, primary: str) -> Score:
    solved, median = float((values < TOLERANCE).double().mean()), float(values.median())
    return (solved, -median) if primary == "solved" else (-median, solved)


def tuned(landscape: Landscape, method: Method, size: Size) -> Tuning[Schedule]:
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + size.tuning_seeds)
    problem = Problem(landscape, seeds, size.tuning_starts)

    def evaluate(values: tuple[float, ...], schedule: Schedule) -> Score:
        lr, own = values
        return score(descend(problem, method, Setting(lr, schedule, own), size)[-1], landscape.primary)

    axes = [
        axis if axis.fixed else replace(axis, count=size.count, reach=size.reach)
        for axis in (Axis("lr", 0.1), method.own)
    ]
    schedules: tuple[Schedule, ...] = ("constant", "cosine")
    return tune(evaluate, axes, schedules)


def evaluated(landscape: Landscape, method: Method, setting: Setting, size: Size) -> dict[str, Any]:
    """Results on the evaluation seeds: of each seed, and quartiles over all starts along the way."""
    values = descend(
        Problem(landscape, range(size.evaluation_seeds), size.starts), method, setting, size, recorded=True
    )
    quartiles = np.stack([np.quantile(v, (0.25, 0.5, 0.75)) for v in values], axis=1)
    return {
        "solved": [_short(v) for v in (values[-1] < TOLERANCE).double().mean(1)],
        "median": [_short(v) for v in values[-1].quantile(0.5, dim=1)],
        "curve_solved": [_short((v < TOLERANCE).double().mean()) for v in values],
        "curve_quartiles": [[_short(v) for v in row] for row in quartiles],
    }


def _short(value: Any) -> float:
    return float(f"{float(value):.4g}")


def tune_and_evaluate(landscape: Landscape, method: Method, size: Size) -> dict[str, Any]:
    """The entry of one pair; it depends on no other."""
    start = time.perf_counter()
    tuning = tuned(landscape, method, size)
    setting = Setting(tuning.values[0], tuning.choice, tuning.values[1])
    found = {
        "landscape": landscape.name,
        "method": method.name,
        "setting": asdict(setting) | {"own_name": method.own.name},
        "trials": len(tuning.trials),
        "edges": list(tuning.edges),
    } | evaluated(landscape, method, setting, size)
    return found | {"seconds": round(time.perf_counter() - start, 1)}


def unfinished(path: Path, size: Size) -> list[dict[str, Any]]:
    """Results of an earlier run of this size; none if there is no such file.

    Raises:
        ValueError: if the file is of another size.
    """
    if not path.exists():
        return []
    record = json.loads(path.read_text())
    if record["size"] != asdict(size):
        raise ValueError(f"Invalid --output: {path} is of a run of another size; name another folder or remove it")
    return record["results"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="evaluation seeds, 2 to 1000. Default: 10")
    parser.add_argument("--quick", action="store_true", help="run a tiny setting as a test, without meaningful results")
    parser.add_argument(
        "--output", type=Path, default=Path("logs/landscapes"), help="folder to write to. Default: logs/landscapes"
    )
    given = parser.parse_args(arguments)
    if not 2 <= given.seeds <= FIRST_TUNING_SEED:
        parser.error(f"Invalid --seeds: {given.seeds}; it must be 2 to {FIRST_TUNING_SEED}")
    check_writable(given.output / "landscapes.json")
    torch.set_num_threads(1)
    size = replace(QUICK if given.quick else Size(), evaluation_seeds=given.seeds)
    try:
        done = unfinished(path := given.output / "landscapes.json", size)
    except ValueError as error:
        parser.error(str(error))
    found = {(result["landscape"], result["method"]): result for result in done}
    record = {
        "command": shlex.join(["python", "scripts/landscapes.py", *(sys.argv[1:] if arguments is None else arguments)]),
        "versions": {name: version(name) for name in ("torch", "numpy", "scipy", "qiskit")}
        | {"python": platform.python_version(), "machine": platform.machine()},
        "size": asdict(size),
        "tolerance": TOLERANCE,
        "dimensions": DIMENSIONS,
        "evaluation_seeds": list(range(size.evaluation_seeds)),
        "tuning_seeds": [FIRST_TUNING_SEED + i for i in range(size.tuning_seeds)],
    }
    for landscape, method in itertools.product(LANDSCAPES, METHODS):
        if (key := (landscape.name, method.name)) in found:
            continue
        found[key] = result = tune_and_evaluate(landscape, method, size)
        with atomic_write(path) as file:
            json.dump(record | {"results": list(found.values())}, file)
        print(
            f"{landscape.name}, {method.name}: solved {np.mean(result['solved']):.1%}, median "
            f"{np.mean(result['median']):.3g}; {result['setting']}; {result['trials']} trials in {result['seconds']} s"
            f"; edges: {', '.join(result['edges']) or 'none'}",
            flush=True,
        )
    results = [found[landscape.name, method.name] for landscape, method in itertools.product(LANDSCAPES, METHODS)]
    primary = {landscape.name: str(landscape.primary) for landscape in LANDSCAPES}
    with atomic_write(given.output / "landscapes.md") as file:
        file.write(text := tables(results, primary))
    with atomic_write(given.output / "landscapes.png", "wb") as file:
        draw(results, primary, size.gradients, file)
    print(text)


if __name__ == "__main__":
    main()
