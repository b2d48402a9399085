"""Every YAML instantiates; every overlay runs one step on top of its base."""

from pathlib import Path

import pytest

from lightning_qsgd.cli import main

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
OVERLAYS = sorted((ROOT / "configs" / "overlay").glob("*.yaml"))
STEP = ["--trainer.fast_dev_run=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_each_config_runs_a_step(config):
    main(["fit", "--config", str(config), *STEP])


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda p: p.stem)
def test_each_overlay_runs_a_step_and_is_short(overlay):
    lines = [line for line in overlay.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 8
    main(["fit", "--config", "configs/seqcls.yaml", "--config", str(overlay), *STEP])
