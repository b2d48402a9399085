"""The command compare, as it is typed."""

import io

import pytest
import yaml
from rich.console import Console

from lightning_qsgd.cli import main
from lightning_qsgd.comparison.command import Display
from tests.comparison.common import fake_results

SPEC = {
    "name": "t",
    "base": ["configs/seqcls.yaml"],
    "set": {
        "trainer.max_epochs": 1,
        "data.init_args": {"train_size": 640, "val_size": 40},
        "model.init_args": {"embed_dim": 8, "feedforward_dim": 8},
    },
    "metric": {"margin": 0.01},
    "baseline": "adamw",
    "seeds": {"evaluation": [1], "tuning": [11]},
    "arms": {
        "adamw": {"overlays": ["configs/overlay/adamw.yaml"]},
        "live": {"overlays": ["configs/overlay/live.yaml"]},
    },
}


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(SPEC))
    return ["compare", "--config", str(tmp_path / "c.yaml"), "--root", str(tmp_path / "logs")]


def test_a_dry_run_counts_runs_time_and_circuits_and_leaves_nothing(arguments, tmp_path, capsys):
    main([*arguments, "--dry-run"])
    printed = capsys.readouterr().out
    (live,) = (line for line in printed.splitlines() if "live" in line)
    numbers = [part.strip().replace(",", "") for part in live.split("│")[2:-1]]
    assert numbers[1] == "1"
    assert float(numbers[3]) == pytest.approx(20 * 28, abs=28)  # steps, blocks of 4 first coordinates
    assert "2 workers" in printed
    assert not (tmp_path / "logs").exists()


def test_it_runs_and_says_what_came_out(arguments, capsys):
    main(arguments)
    printed = capsys.readouterr().out
    assert "3 of 3 runs" in printed
    assert "lightning-qsgd report" in printed
    main(arguments)
    assert " of 3 runs" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--metric.margin=-1"], "Invalid metric.margin: -1"),
        (["--workers=0"], "Invalid workers: 0"),
        (["--seeds.evaluation=[11]"], r"Invalid seeds: [11]"),
        (["--scheduler=tcp://127.0.0.1:9"], "No Dask scheduler at tcp://127.0.0.1:9"),
    ],
)
def test_mistakes(arguments, more, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*arguments, *more])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_terminal_shows_a_table_that_is_written_over():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    results = fake_results({"adamw": 0.0, "circuit": 0.02}, twins={"circuit": ["frozen"]})
    with Display(console, results.comparison.folder) as display:
        display(results, 3, 10)
        display(results, 4, 10)
    shown = stream.getvalue()
    assert "3 of 10 runs" in shown
    assert "4 of 10 runs" in shown
    assert "\x1b[1A" in shown, "the cursor goes up again"
    assert all(arm in shown for arm in results.comparison.all_arms())
