"""Train the missing runs of a comparison in parallel, and collect their results."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from joblib.externals.loky.process_executor import TerminatedWorkerError

from lightning_qsgd.comparison.arms import Arms, Plan, is_layer_twin, trains_with_sine
from lightning_qsgd.comparison.pairing import check_levels, check_probes
from lightning_qsgd.comparison.results import FILE, Results, Run, commit, provenance
from lightning_qsgd.comparison.spec import Comparison
from lightning_qsgd.comparison.tuning import Point, best, on_edge, propose
from lightning_qsgd.comparison.worker import RESULT, Estimate, estimate, execute, probe, read_result
from lightning_qsgd.twin_names import NoTwinError

Watch = Callable[[Results, int, int], None]
SAVE_SECONDS = 20.0  # at least, between two writes of results.json


class Runner:
    """Runs a comparison: tuning in rounds, then evaluation with interleaved arms.

    Args:
        comparison: the specification.
        workers: number of processes on this machine, at least 1. Default: 2.
        scheduler: address of a Dask scheduler, such as "tcp://127.0.0.1:8786", whose workers train instead. They must
            see the same folders. Default: None.
        retry: whether to train failed runs again. Default: False.
        watch: called with the results so far, the number of runs that are done, and the number of runs that are known
            to be needed. Default: None.

    Attributes:
        results: the results so far.

    Raises:
        ValueError: if workers is below 1, or existing results cannot be read.
    """

    def __init__(
        self,
        comparison: Comparison,
        workers: int = 2,
        scheduler: str | None = None,
        retry: bool = False,
        watch: Watch | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"Invalid workers: {workers}; it must be at least 1")
        self.comparison, self.workers, self.scheduler, self.watch = comparison, workers, scheduler, watch
        self.arms = Arms(comparison)
        self.results = Results(comparison, provenance() | {"complete": False})
        self._done: set[tuple[str, int, str, str]] = set()
        self._retry, self._saved, self._needed = retry, 0.0, 0
        self._before: dict[tuple[str, int, str, str], Run] = {}
        self._declared: dict[str, Any] | None = None
        if (comparison.folder / FILE).is_file():
            before = Results.load(comparison.folder)
            self.results.parameter_sets = before.parameter_sets
            self._declared = before.provenance.get("declared")
            self._before = {(run.arm, run.seed, run.phase, run.config): run for run in before.runs}

    def run(self, tuning_only: bool = False) -> Results:
        """Train all missing runs.

        Args:
            tuning_only: whether to stop before the evaluation runs. Default: False.

        Raises:
            ValueError: if the runs of a contrast are not paired at its declared level (the runs are kept), or an arm's
                model has no circuit layers that its twins could replace.
            RuntimeError: if a tuning run failed, so that no settings can be chosen.
        """
        self.comparison.folder.mkdir(parents=True, exist_ok=True)
        with self._parallel() as parallel:
            if not self._before:
                self.check_pairing(parallel)
            elif new := self._layer_twins() - {arm for arm, *_ in self._before}:
                self._probe(sorted(new), parallel)
            while plans := self.tuning_round():
                self._execute(parallel, plans)
            self._freeze_targets()
            if tuning_only:
                self._save()
                return self.results
            self._declare()
            self._execute(parallel, self.evaluation())
        self.results.provenance["complete"] = True
        self._save()
        return self.results

    def _declare(self) -> None:
        """Record what was declared before the first evaluation run, and what has changed since."""
        declared = self._declared
        if declared is None and not any(phase == "evaluation" for _, _, phase, _ in self._before):
            declared = {"at": _now(), "what": self.comparison.declaration()}
        if declared is not None:
            changes = _changes(declared["what"], self.comparison.declaration())
            self.results.provenance["declared"] = declared | {"changes": changes}

    def check_pairing(self, parallel: joblib.Parallel | None = None) -> None:
        """Check before the first run, on two batches of each arm, that the arms of contrasts share what is declared.

        Arms that differ only in their optimizer share everything, and are not tried. Twins of circuit layers are always
        tried.

        Args:
            parallel: pool of workers to train the batches. Default: None, this process.

        Raises:
            ValueError: if the arms of a contrast share less than its declared level, or a model has no such twin.
        """
        pairs = [(contrast.arm, contrast.against) for contrast in self.comparison.contrasts]
        names = dict.fromkeys(name for p in pairs if self.arms.differ_beyond_optimizer(*p) for name in p)
        check_probes(self.comparison, self._probe([*(names | dict.fromkeys(sorted(self._layer_twins())))], parallel))

    def _layer_twins(self) -> set[str]:
        return set(filter(is_layer_twin, self.comparison.all_arms()))

    def _probe(self, names: Sequence[str], parallel: joblib.Parallel | None) -> dict[str, Any]:
        """What runs of these arms share, by arm; without arms whose first batches fail."""
        plans = [self.arms.plan(name, self.comparison.seeds.evaluation[0], "evaluation", {}) for name in names]
        tasks = (joblib.delayed(_probed)(plan.arm, plan.config, str(Path.cwd())) for plan in plans)
        probes: Any = (parallel or joblib.Parallel(1))(tasks) if plans else []
        return {arm: probed for arm, probed in probes if probed is not None}

    def estimates(self) -> dict[str, Estimate]:
        """Estimate the cost of a run of each arm from its first steps. Twins of perturbations cost what it does."""
        seed, names = self.comparison.seeds.evaluation[0], self.comparison.all_arms()
        measured = [name for name in names if "/" not in name or is_layer_twin(name)]
        found = {name: estimate(self.arms.plan(name, seed, "evaluation", {}).config) for name in measured}
        return {name: found.get(name) or found[name.partition("/")[0]] for name in names}

    # ---- choosing runs

    def tuning_round(self) -> list[Plan]:
        """The runs that tuning needs next; an empty list if it is complete."""
        while plans := self._proposed():
            for run in self.results.runs:
                if run.phase == "tuning" and run.status == "failed" and self.comparison.tuning.trials:
                    raise RuntimeError(
                        f"A tuning run of {run.arm} failed (seed {run.seed}): {run.error}. No settings can be chosen; "
                        "fix the cause, and add --retry_failed"
                    )
            if missing := [plan for plan in plans if not self._known(plan)]:
                return sorted(missing, key=lambda plan: plan.seed)
            if not self.comparison.tuning.trials:
                break
        return []

    def _proposed(self) -> list[Plan]:
        if self.comparison.tuning.trials:
            return [plan for arm in self.tuned_arms() for plan in self._next_trials(arm)]
        baseline = self.comparison.baseline  # its runs only set the target
        return [self.arms.plan(baseline, seed, "tuning", {}) for seed in self.comparison.seeds.tuning]

    def tuned_arms(self) -> list[str]:
        """The arms that are tuned themselves."""
        arms = self.comparison.arms
        return [name for name, arm in arms.items() if arm.tuned_as is None] if self.comparison.tuning.trials else []

    def evaluation(self) -> list[Plan]:
        """All runs with evaluation seeds, seed by seed, with another order of arms for each seed."""
        names = self.comparison.all_arms()
        values = {name: self.values(name) for name in names}
        plans = []
        for k, seed in enumerate(self.comparison.seeds.evaluation):
            order = np.random.default_rng(k).permutation(len(names))
            plans += [self.arms.plan(names[i], seed, "evaluation", values[names[i]]) for i in order]
        return plans

    def values(self, name: str) -> dict[str, Any]:
        """The tuned settings of an arm, or of the arm it is tuned as."""
        if not self.comparison.tuning.trials:
            return {}
        own = self.comparison.tuned_like(name)
        assert own is not None
        scores = self._scores(own)
        values = _values(self._space(own), best(scores)) if scores else {}
        arm = self.comparison.arms[name.partition("/")[0]]
        return (
            values if arm.tuned_as is None else {k: v for k, v in values.items() if k in self.comparison.tuning.space}
        )

    def _space(self, arm: str) -> dict[str, list[Any]]:
        space = self.comparison.tuning.space | self.comparison.arms[arm].space
        return {key: [_hashable(value) for value in values] for key, values in space.items()}

    def _next_trials(self, arm: str) -> list[Plan]:
        space, tuning = self._space(arm), self.comparison.tuning
        points = propose(space, self._scores(arm), tuning.trials, self.comparison.metric.margin)
        values = [_values(space, point) for point in points]
        seeds = self.comparison.seeds.tuning
        return [self.arms.plan(arm, seed, "tuning", value) for seed in seeds for value in values]

    def _scores(self, arm: str) -> dict[Point, float]:
        """The mean score over seeds of each complete trial; higher is better."""
        sign = self.comparison.metric.sign
        names, found = list(self._space(arm)), {}
        for run in self.results.runs:
            if run.arm == arm and run.phase == "tuning" and list(run.values) == names and run.status != "failed":
                score = sign * self.results.value(run) if run.status == "finished" else -np.inf
                found.setdefault(tuple(map(_hashable, run.values.values())), []).append(score)
        seeds = len(self.comparison.seeds.tuning)
        complete = {point: float(np.mean(scores)) for point, scores in found.items() if len(scores) == seeds}
        return dict(sorted(complete.items(), key=lambda trial: str(trial[0])))  # in any order of finishing

    # ---- training runs

    def _known(self, plan: Plan) -> bool:
        """Whether a run exists, in its folder or in the results; if so, add it to the results."""
        if plan.key in self._done:
            return True
        before = self._before.get(plan.key)
        result = read_result(plan.folder) or ({"run": asdict(before)} if before else None)
        if result is None:
            return False
        if result["run"]["status"] == "failed" and self._retry:
            (plan.folder / RESULT).unlink(missing_ok=True)
            return False
        self._take(plan, result)
        return True

    def _execute(self, parallel: joblib.Parallel, plans: Sequence[Plan]) -> None:
        missing = [plan for plan in plans if not self._known(plan)]
        self._needed = len(self._done) + len(missing)
        self._tell()
        self._save()
        tasks = (joblib.delayed(_numbered)(i, *self._arguments(plan)) for i, plan in enumerate(missing))
        try:
            for number, result in parallel(tasks):  # type: ignore[misc]
                self._take(missing[number], result)
                check_levels(self.results)
                self._tell()
                if time.monotonic() - self._saved > SAVE_SECONDS:
                    self._save()
        finally:
            self._save()

    def _arguments(self, plan: Plan) -> tuple[Any, ...]:
        run = {"arm": plan.arm, "seed": plan.seed, "phase": plan.phase, "values": plan.values}
        parent = os.getpid() if self.scheduler is None else None
        test = self.comparison.test and plan.phase == "evaluation"
        return str(plan.folder.absolute()), run, plan.config, str(Path.cwd()), test, parent

    def _take(self, plan: Plan, result: dict[str, Any]) -> None:
        own = {"arm": plan.arm, "seed": plan.seed, "phase": plan.phase, "values": plan.values, "config": plan.digest}
        run, name = Run(**result["run"] | own), self.comparison.metric.name
        if run.status == "finished" and not any(value is not None for value in run.curve.get(name, [])):
            logged = ", ".join(run.curve) or "nothing; are there validation data?"
            run.status, run.error = "failed", f"No {name} was logged at validation; logged were: {logged}"
        self._done.add(plan.key)
        if digests := result.get("parameter_digests"):
            self.results.parameter_sets.setdefault(run.hashes["parameters"], digests)
        self.results.runs.append(run)

    def _freeze_targets(self) -> None:
        """Set the targets from the tuning seeds, and record the tuned settings of each arm."""
        baseline = self.comparison.baseline
        values = self.values(baseline)
        runs = [run for run in self.results.runs if (run.arm, run.phase) == (baseline, "tuning")]
        chosen = [self.results.value(run) for run in runs if run.values == values]
        self.results.targets = {f"{target:g}": target for target in self.comparison.targets or []}
        if np.isfinite(chosen).any():
            self.results.targets["tuned baseline"] = round(float(np.nanmedian(chosen)), 6)
        for name in self.comparison.all_arms():
            own: dict[str, Any] = {"values": self.values(name)}
            own["default"] = self.arms.default(name, list(own["values"])) if "/" not in name else own["values"]
            own["sine"] = trains_with_sine(self.arms.config(name, "evaluation", own["values"]))
            if name in self.tuned_arms():
                scores = self._scores(name)
                sign = self.comparison.metric.sign
                own["trials"] = [
                    {"values": list(point), "score": sign * score if np.isfinite(score) else None}
                    for point, score in scores.items()
                ]
                own["edge"] = on_edge(self._space(name), scores)
            self.results.arms[name] = own

    @contextlib.contextmanager
    def _parallel(self) -> Iterator[joblib.Parallel]:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers inherit it
        if self.scheduler is None:
            options: dict[str, Any] = {"backend": "loky", "return_as": "generator_unordered", "batch_size": 1}
            try:
                with joblib.Parallel(self.workers, **options) as parallel:
                    yield parallel
            except TerminatedWorkerError as error:
                raise ChildProcessError(
                    "A worker was killed (the system may have run out of memory: use fewer --workers); run the same "
                    "command again to continue"
                ) from error
            return
        try:
            from lightning_qsgd.comparison.dask_backend import dask_workers
        except ImportError as error:
            raise ImportError("A Dask scheduler needs: pip install 'dask[distributed]'") from error
        with dask_workers(self.scheduler) as parallel:
            yield parallel

    def _save(self) -> None:
        began = [run.host["started"] for run in self.results.runs if run.host]
        commits = dict.fromkeys(filter(None, [*(run.host.get("commit") for run in self.results.runs), commit()]))
        self.results.provenance |= {"started": min(began, default=_now()), "updated": _now()}
        self.results.provenance |= {"commit": ", ".join(commits) or None} if commits else {}
        self.results.runs.sort(key=lambda run: (run.phase == "evaluation", run.arm, run.seed, run.config))
        self.results.save(self.comparison.folder)
        self._saved = time.monotonic()

    def _tell(self) -> None:
        if self.watch is not None:
            self.watch(self.results, len(self._done), self._needed)


def _numbered(number: int, *arguments: Any) -> tuple[int, dict[str, Any]]:
    return number, execute(*arguments)


def _probed(arm: str, config: dict[str, Any], place: str) -> tuple[str, Any]:
    try:
        return arm, probe(config, place)
    except NoTwinError as error:
        raise NoTwinError(f"{error} (arm {arm})") from error


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _values(space: dict[str, list[Any]], point: Point) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in zip(space, point, strict=True)}


def _changes(before: Any, now: Any, key: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        names = dict.fromkeys([*before, *now])
        return [line for k in names for line in _changes(before.get(k), now.get(k), f"{key}.{k}".strip("."))]
    return [] if before == now else [f"{key}: {before} -> {now}"]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
