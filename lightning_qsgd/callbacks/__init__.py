"""Level 2: callbacks."""

from lightning_qsgd.callbacks.attention_monitor import AttentionMonitor as AttentionMonitor
from lightning_qsgd.callbacks.best_checkpoint import BestCheckpoint as BestCheckpoint
from lightning_qsgd.callbacks.best_checkpoint import MonitorCheck as MonitorCheck
from lightning_qsgd.callbacks.changed_options import ChangedOptions as ChangedOptions
from lightning_qsgd.callbacks.circuit_engines import CircuitEngines as CircuitEngines
from lightning_qsgd.callbacks.circuit_engines import ShotsByEpoch as ShotsByEpoch
from lightning_qsgd.callbacks.circuit_twins import CircuitTwins as CircuitTwins
from lightning_qsgd.callbacks.displaced_forward import DisplacedForward as DisplacedForward
from lightning_qsgd.callbacks.distributed_checks import DistributedChecks as DistributedChecks
from lightning_qsgd.callbacks.exact_resume import ExactResume as ExactResume
from lightning_qsgd.callbacks.exact_resume import Stopped as Stopped
from lightning_qsgd.callbacks.finite_steps import FiniteSteps as FiniteSteps
from lightning_qsgd.callbacks.perturbation_monitor import PerturbationMonitor as PerturbationMonitor
from lightning_qsgd.callbacks.prediction_writer import PredictionWriter as PredictionWriter
from lightning_qsgd.callbacks.run_monitor import RunMonitor as RunMonitor
from lightning_qsgd.callbacks.run_summary import RunSummary as RunSummary
from lightning_qsgd.callbacks.test_report import TestReport as TestReport
from lightning_qsgd.callbacks.time_to_target import TimeToTarget as TimeToTarget
from lightning_qsgd.callbacks.weights_from import WeightsFrom as WeightsFrom
