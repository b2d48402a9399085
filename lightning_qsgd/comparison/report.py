"""Reports: one HTML page, a Markdown summary with its figures, and a table of all runs."""

import csv
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_qsgd.comparison import html, markdown
from lightning_qsgd.comparison.analysis import AXES, CHECKS, SUMMARIES, Analysis, analyse, time_of
from lightning_qsgd.comparison.results import Results, Run
from lightning_qsgd.comparison.sections import task, together
from lightning_qsgd.comparison.tables import LIVE
from lightning_qsgd.files import atomic_write


def write_report(results: Sequence[Results], output: Path) -> list[Path]:
    """Write ``report.html``, ``report.md`` with ``figures/``, and ``runs.csv``, each completely or not at all.

    Args:
        results: of one comparison, or of several that are tasks for the same arms.
        output: the folder; made if missing.

    Returns:
        Paths of the files.

    Raises:
        ValueError: without results.
        OSError: if a file cannot be written.
    """
    if not results:
        raise ValueError("Invalid results: none; give at least one comparison's")
    analyses = [analyse(result) for result in results]
    keys = [f"{i}-{re.sub(r'[^a-z0-9]+', '-', a.name.lower()).strip('-')}" for i, a in enumerate(analyses, 1)]
    tasks = [task(analysis, key) for analysis, key in zip(analyses, keys, strict=True)]
    title = " and ".join(dict.fromkeys(analysis.name for analysis in analyses))
    combined = together(analyses) if len(analyses) > 1 else None
    summary, figures = markdown.render(title, tasks, combined)
    texts = {Path("report.html"): html.render(title, tasks, combined), Path("report.md"): summary, **figures}
    for path, text in texts.items():
        with atomic_write(output / path) as file:
            file.write(text)
    _write_runs(analyses, output / "runs.csv")
    return [*(output / path for path in texts), output / "runs.csv"]


def _write_runs(analyses: Sequence[Analysis], path: Path) -> None:
    """One row for each run of both phases; empty where there is no number, "inf" for a target that was missed."""
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
    row |= {name: run.live.get(name, "") for name in LIVE}
    row |= {name: " ".join(run.live.get(name) or []) for name in CHECKS}
    return row | {"error": run.error or ""}
