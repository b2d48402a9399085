"""A run as a value, and its command line. Level 3."""

from lightning_qsgd.experiment.value import Experiment as Experiment
from lightning_qsgd.experiment.value import RunResult as RunResult
from lightning_qsgd.experiment.value import build as build
from lightning_qsgd.experiment.value import fit as fit
