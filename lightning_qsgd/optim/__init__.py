"""Level 1: the optimizer and its perturbations. Plain PyTorch: nothing here needs Lightning."""

from lightning_qsgd.optim.circuit_perturbation import CircuitPerturbation as CircuitPerturbation
from lightning_qsgd.optim.displacement import MeasuredDisplacement as MeasuredDisplacement
from lightning_qsgd.optim.displacement import SharpnessAware as SharpnessAware
from lightning_qsgd.optim.live_circuit import LiveCircuitPerturbation as LiveCircuitPerturbation
from lightning_qsgd.optim.param_groups import perturbed_groups as perturbed_groups
from lightning_qsgd.optim.perturbation import ConstantTwin as ConstantTwin
from lightning_qsgd.optim.perturbation import ControlPerturbation as ControlPerturbation
from lightning_qsgd.optim.perturbation import FrozenTwin as FrozenTwin
from lightning_qsgd.optim.perturbation import MatchedTwin as MatchedTwin
from lightning_qsgd.optim.perturbation import Perturbation as Perturbation
from lightning_qsgd.optim.perturbation import ScalarTwin as ScalarTwin
from lightning_qsgd.optim.perturbation import SeriesTwin as SeriesTwin
from lightning_qsgd.optim.perturbation import ShuffledTwin as ShuffledTwin
from lightning_qsgd.optim.perturbation import SignTwin as SignTwin
from lightning_qsgd.optim.perturbation import SinePerturbation as SinePerturbation
from lightning_qsgd.optim.perturbation import TwinPerturbation as TwinPerturbation
from lightning_qsgd.optim.perturbation import UniformTwin as UniformTwin
from lightning_qsgd.optim.schedules import ConstantSchedule as ConstantSchedule
from lightning_qsgd.optim.schedules import CosineSchedule as CosineSchedule
from lightning_qsgd.optim.schedules import ExponentialSchedule as ExponentialSchedule
from lightning_qsgd.optim.schedules import LinearSchedule as LinearSchedule
from lightning_qsgd.optim.schedules import WarmupSchedule as WarmupSchedule
from lightning_qsgd.optim.superpositional import SuperpositionalGradientDescent as SuperpositionalGradientDescent
