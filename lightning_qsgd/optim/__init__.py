"""Level 1: the optimizer and its perturbations. Plain PyTorch: nothing here needs Lightning."""

from lightning_qsgd.optim.circuit_perturbation import CircuitPerturbation as CircuitPerturbation
from lightning_qsgd.optim.perturbation import ControlPerturbation as ControlPerturbation
from lightning_qsgd.optim.perturbation import Perturbation as Perturbation
from lightning_qsgd.optim.perturbation import SinePerturbation as SinePerturbation
from lightning_qsgd.optim.superpositional import SuperpositionalGradientDescent as SuperpositionalGradientDescent
