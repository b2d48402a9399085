"""Parses a configuration: what the first parse of a process computes is there for those that are forked from it."""

from pathlib import Path

from lightning_qsgd.experiment import Experiment

assert Experiment.typed(["--config", str(Path(__file__).parents[1] / "configs" / "seqcls.yaml")]).settings
