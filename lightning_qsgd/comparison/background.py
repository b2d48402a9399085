"""Tables of what was run: settings, tuning, hashes, provenance, and what did not finish."""

from typing import Any

import numpy as np

from lightning_qsgd.comparison.analysis import Analysis
from lightning_qsgd.comparison.numbers import NONE
from lightning_qsgd.comparison.tables import Table, numbers_of


def settings(analysis: Analysis) -> Table:
    """What the arms are: files and settings of each over the base."""
    spec = analysis.results.comparison
    rows = [
        (name, arm.tuned_as or NONE, ", ".join(arm.overlays) or NONE, _settings(arm.set), ", ".join(arm.twins) or NONE)
        for name, arm in spec.arms.items()
    ]
    over = f", with {_settings(spec.set)}" if spec.set else ""
    caption = f"What the arms are, over the base {', '.join(spec.base)}{over}. A twin takes its arm's settings."
    return Table(caption, ("arm", "tuned as", "files", "settings", "twins"), rows)


def tuning(analysis: Analysis) -> Table:
    """Tuned and default settings of each arm; without rows where nothing was tuned."""
    numbers, spec = numbers_of(analysis), analysis.results.comparison
    rows = []
    for name, own in analysis.results.arms.items():
        if "/" in name or not own.get("values") or name not in spec.arms:
            continue
        scores = [trial.get("score") for trial in own.get("trials", [])]
        known = [score for score in scores if score is not None]
        best = (max(known) if spec.metric.mode == "max" else min(known)) if known else None
        source = spec.arms[name].tuned_as
        trials = str(len(scores)) if source is None else f"as {source}"
        edge = ", ".join(own.get("edge") or []) or ("no" if source is None else NONE)
        score = NONE if best is None else numbers.value(best)
        rows.append((name, _settings(own["values"]), _settings(own.get("default", {})), score, trials, edge))
    unit = f" ({spec.metric.unit})" if spec.metric.unit else ""
    caption = (
        f"Tuned on {len(spec.seeds.tuning)} tuning seeds, at most {spec.tuning.trials} trials an arm; the score is the "
        "best trial's mean over them. On the edge: settings whose best value is the smallest or largest that was tried."
    )
    return Table(caption, ("arm", "tuned", "default", f"score{unit}#", "trials#", "on the edge"), rows)


def unfinished(analysis: Analysis) -> Table:
    """Runs that diverged or failed, of both phases."""
    runs = [run for run in analysis.results.runs if run.status != "finished"]
    rows = [(run.arm, str(run.seed), run.phase, run.status, run.error or "") for run in runs]
    return Table("Runs that did not finish.", ("arm", "seed#", "phase", "status", "error"), rows)


def pairing(analysis: Analysis) -> Table:
    """Digests of what the runs of each seed used; a number where they differ."""
    rows = []
    seeds = sorted({run.seed for run in analysis.runs()})
    for seed in seeds:
        runs = [run for run in analysis.runs() if run.seed == seed and run.status == "finished"]
        cells = [
            _digests([_last(run.hashes.get(key)) for run in runs])
            for key in ("batches", "seeds", "parameters", "validation")
        ]
        rows.append((str(seed), str(len(runs)), *cells))
    caption = (
        "Hashes of what the finished runs of each seed used: all batches in their order, the random seeds of all "
        "steps, all initial values, the validation data. Where runs differ, their number of different hashes is given."
    )
    return Table(caption, ("seed#", "runs#", "batches", "step seeds", "initial values", "validation data"), rows)


def provenance(analysis: Analysis) -> Table:
    """Command, commit, versions, hardware, seeds."""
    results = analysis.results
    rows = [(key.replace("_", " "), _plain(value)) for key, value in results.provenance.items()]
    seeds = results.comparison.seeds
    rows += [("evaluation seeds", _plain(seeds.evaluation)), ("tuning seeds", _plain(seeds.tuning))]
    return Table("Provenance.", ("what", "value"), rows)


def _settings(values: dict[str, Any]) -> str:
    """By the last part of each key, where that tells them apart."""
    ends = [key.rpartition(".")[2] for key in values]
    names = ends if len(set(ends)) == len(ends) and "class_path" not in ends else list(values)
    return ", ".join(f"{name} = {_plain(value)}" for name, value in zip(names, values.values(), strict=True)) or NONE


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(item)}" for key, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        steps = np.diff(value) if len(value) > 2 and all(type(item) is int for item in value) else np.zeros(1)
        return f"{value[0]} to {value[-1]}" if (steps == 1).all() else ", ".join(map(_plain, value)) or NONE
    return f"{value:g}" if isinstance(value, float) else NONE if value is None else str(value)


def _last(value: Any) -> str | None:
    return (value[-1] if value else None) if isinstance(value, list) else value


def _digests(values: list[str | None]) -> str:
    different = sorted({value for value in values if value})
    return NONE if not different else different[0][:12] if len(different) == 1 else f"{len(different)} different"
