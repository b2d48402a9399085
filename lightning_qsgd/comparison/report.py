"""Write reports: an HTML page, the same page as Markdown with its figures, and a table of all runs."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_qsgd.comparison import figures, wording
from lightning_qsgd.comparison.analysis import AXES, CHECKS, SUMMARIES, Analysis, analyse, time_of
from lightning_qsgd.comparison.results import Results, Run
from lightning_qsgd.comparison.statistics import seeds_needed
from lightning_qsgd.files import atomic_write
from lightning_qsgd.report.document import Part, render
from lightning_qsgd.report.numbers import NONE, plain
from lightning_qsgd.report.page import write_page


def write_report(results: Sequence[Results], output: Path) -> list[Path]:
    """Write ``report.html``, ``report.md`` with ``figures/``, and ``runs.csv``, each completely or not at all.

    Args:
        results: the results of one comparison, or of several that share a page.
        output: the folder, which is made if it does not exist.

    Returns:
        The paths of the files.

    Raises:
        ValueError: if there are no results.
        OSError: if a file cannot be written.
    """
    if not results:
        raise ValueError("Invalid results: none; give those of at least one comparison")
    analyses = [analyse(result) for result in results]
    title = " and ".join(dict.fromkeys(analysis.name for analysis in analyses))
    keys = [f"{number}_" for number in range(1, len(analyses) + 1)] if len(analyses) > 1 else [""]
    parts = [part(analysis, key) for analysis, key in zip(analyses, keys, strict=True)]
    written = write_page(title, parts, output, "report", "Comparison of training algorithms")
    _write_runs(analyses, output / "runs.csv")
    return [*written, output / "runs.csv"]


def part(analysis: Analysis, key: str = "") -> Part:
    """Render the part of a page about one comparison.

    Args:
        analysis: the analysis to show.
        key: prefix of the figures' names if the page has several parts; the part then has a heading. Default: "".
    """
    results, spec = analysis.results, analysis.results.comparison
    ran = bool(analysis.runs())
    drawings = {
        "forest": figures.forest(analysis),
        "curves": figures.learning_curves(analysis) if ran else None,
        "differences": figures.differences(analysis),
        "dose": figures.dose(analysis),
        "cost": figures.cost(analysis),
    }
    reached = {f"target {target}": figures.reached(analysis, target) for target in results.targets} if ran else {}
    facts = {
        "a": analysis,
        "spec": spec,
        "provenance": results.provenance,
        "numbers": analysis.numbers,
        "said": wording,
        "ran": ran,
        "live_columns": {"arm": "text"}
        | {column.heading: "number" for column in wording.LIVE.values()}
        | {"what follows": "text"},
        "declared": {contrast.arm for contrast in spec.contrasts} | {spec.baseline},
        "seeds_needed": seeds_needed,
        "counted": any("parameters" in arm.cost for arm in analysis.arms.values()),
        "settings": _settings,
        "tuning": _tuning(analysis),
        "unfinished": [run for run in results.runs if run.status != "finished"],
        "hashes": _hashes(analysis),
        "median": lambda times: sorted(times)[(len(times) - 1) // 2] if times else None,
        "quartiles": lambda ratios: np.quantile(ratios, [0.25, 0.75]),
    }
    return render("comparison", facts, drawings | reached, wording.summary(analysis), key, spec.name if key else "")


def _settings(values: dict[str, Any]) -> str:
    """Settings as text, with only the last part of each key if that is unambiguous."""
    ends = [key.rpartition(".")[2] for key in values]
    names = ends if len(set(ends)) == len(ends) and "class_path" not in ends else list(values)
    return ", ".join(f"{name} = {plain(value)}" for name, value in zip(names, values.values(), strict=True)) or NONE


def _tuning(analysis: Analysis) -> list[dict[str, Any]]:
    """The tuned settings of each arm that was tuned or uses those of another arm."""
    spec, rows = analysis.results.comparison, []
    for name, own in analysis.results.arms.items():
        if "/" in name or not own.get("values") or name not in spec.arms:
            continue
        known = [score for trial in own.get("trials", []) if (score := trial.get("score")) is not None]
        best = (max if spec.metric.mode == "max" else min)(known) if known else None
        rows.append(own | {"arm": name, "best": best, "source": spec.arms[name].tuned_as})
    return rows


def _hashes(analysis: Analysis) -> list[tuple[int, int, list[str]]]:
    """Seed, number of finished runs, and digests of their batches, step seeds, initial values and validation data."""
    rows = []
    for seed in sorted({run.seed for run in analysis.runs()}):
        runs = [run for run in analysis.runs() if run.seed == seed and run.status == "finished"]
        cells = []
        for key in ("batches", "seeds", "parameters", "validation"):
            values = [run.hashes.get(key) for run in runs]
            different = sorted({value[-1] if isinstance(value, list) else value for value in values if value})
            one = different[0][:12] if different else NONE
            cells.append(one if len(different) <= 1 else f"{len(different)} different")
        rows.append((seed, len(runs), cells))
    return rows


def _write_runs(analyses: Sequence[Analysis], path: Path) -> None:
    """Write one row for each run of both phases. A cell is empty without a number, and "inf" for a missed target."""
    rows = [_row(analysis, run) for analysis in analyses for run in analysis.results.runs]
    columns = dict.fromkeys(column for row in rows for column in row)
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, list(columns) or ["comparison", "arm", "seed"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _row(analysis: Analysis, run: Run) -> dict[str, Any]:
    results = analysis.results
    row: dict[str, Any] = {"comparison": analysis.name, "arm": run.arm, "seed": run.seed, "phase": run.phase}
    row |= {"status": run.status, "values": json.dumps(run.values) if run.values else ""}
    for summary in SUMMARIES:
        value = results.value(run, summary)
        row[summary] = "" if math.isnan(value) else f"{value:.6g}"
    row |= run.test
    for name, target in results.targets.items():
        for axis in AXES:
            row[f"{axis} to {name}"] = f"{time_of(results, run, axis, target):.6g}"
    row |= {name: "" if value is None else value for name, value in run.cost.items()}
    row |= {name: run.live.get(name, "") for name in wording.LIVE}
    row |= {name: " ".join(run.live.get(name) or []) for name in CHECKS}
    return row | {"error": run.error or ""}
