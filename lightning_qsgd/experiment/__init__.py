"""A run as a value, and its command line. Level 3."""

from typing import NoReturn

from lightning_qsgd.experiment.value import Experiment as Experiment
from lightning_qsgd.experiment.value import RunResult as RunResult
from lightning_qsgd.experiment.value import build as build
from lightning_qsgd.experiment.value import fit as fit


def __getattr__(name: str) -> NoReturn:
    if name == "parse":  # an AttributeError would lose its text in "from ... import"
        raise ImportError("parse of version 0.1.0 is gone; use Experiment(config, overrides).settings")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
