"""The walks in docs from a file to a verdict, with fewer epochs and seeds than there."""

import math
import re
import shlex

import pytest

from lightning_qsgd.cli import main
from tests.test_docs import ROOT, blocks

pytestmark = pytest.mark.slow
FIT = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]
COMPARE = [
    "--seeds.evaluation=[1, 2]", "--tuning.trials=0", "--workers=1", "--test=false",
    "--set={trainer: {max_epochs: 1, limit_train_batches: 2}, data.init_args: {batch_size: 8}}",
]  # fmt: skip
#: One of the eight twins; the walk of a table trains all.
ONE = ["--arms={circuit: {twins: [linear]}}", "--contrasts=[{arm: circuit, against: circuit/linear, level: shared}]"]


def load(folder):
    """A series in place of one that needs a download."""
    times = (f"2000-06-{5 + i // 48:02}T{i // 2 % 24:02}:{i % 2 * 30:02}" for i in range(960))
    rows = (f"{time},{30_000 + 7000 * math.sin(i / 8):.0f}\n" for i, time in enumerate(times))
    folder.mkdir(exist_ok=True)
    (folder / "load.csv").write_text("time,load\n" + "".join(rows))


@pytest.mark.parametrize("page", ["table", "images", "series"])
def test_a_walk_ends_with_a_verdict(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for language, _, text in blocks(ROOT / "docs" / f"{page}.md"):
        if language == "python":
            exec(compile(text, page, "exec"), {})
        elif language == "yaml":
            (tmp_path / re.match(r"# (\S+\.yaml)", text)[1]).write_text(text)
        for line in text.splitlines() if language == "bash" else ():
            if "fetch_data" in line:
                load(tmp_path / "data")
                continue
            *_, command = shlex.split(line)[:4]
            quick = {"fit": FIT, "compare": COMPARE + (ONE if page != "table" else [])}
            main([command, *shlex.split(line)[4:], *quick.get(command, [])])
    name = {"table": "wine", "images": "digits", "series": "load"}[page]
    run = tmp_path / "logs" / name / "version_0"
    pictures = {"table": "calibration.png", "images": "confusion_matrix.png", "series": "forecast.png"}
    assert {"test.json", "predictions.csv", pictures[page]} <= {path.name for path in run.iterdir()}
    report = (tmp_path / "logs" / "compare" / name / "report.md").read_text()
    arms = 9 if page == "table" else 2
    assert report.startswith(f"# {name}\n\n> {arms} ways of training")
    assert f"{2 * arms} of {2 * arms} evaluation runs finished" in report
    assert "not clearly better than circuit/linear" in report
