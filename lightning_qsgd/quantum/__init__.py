"""Circuits, samplers, layers and series: angles in, probabilities out. Nothing here knows Lightning or optimizers."""

from lightning_qsgd.quantum.alignment import aligned_rotations as aligned_rotations
from lightning_qsgd.quantum.alignment import modulation_matrix as modulation_matrix
from lightning_qsgd.quantum.alignment import modulation_observables as modulation_observables
from lightning_qsgd.quantum.calibration import Calibration as Calibration
from lightning_qsgd.quantum.calibration import calibrate as calibrate
from lightning_qsgd.quantum.circuit_files import from_qasm as from_qasm
from lightning_qsgd.quantum.circuit_files import from_qpy as from_qpy
from lightning_qsgd.quantum.circuits import Ansatz as Ansatz
from lightning_qsgd.quantum.circuits import layered_circuit as layered_circuit
from lightning_qsgd.quantum.circuits import score_circuit as score_circuit
from lightning_qsgd.quantum.circuits import superposition_circuit as superposition_circuit
from lightning_qsgd.quantum.fourier import PowerSplit as PowerSplit
from lightning_qsgd.quantum.hardware import IBMSampler as IBMSampler
from lightning_qsgd.quantum.layer import QuantumLayer as QuantumLayer
from lightning_qsgd.quantum.library import named_circuit as named_circuit
from lightning_qsgd.quantum.light_cone import LightConeSurrogate as LightConeSurrogate
from lightning_qsgd.quantum.network import QuantumNetwork as QuantumNetwork
from lightning_qsgd.quantum.reliable import ReliableSampler as ReliableSampler
from lightning_qsgd.quantum.samplers import AerSampler as AerSampler
from lightning_qsgd.quantum.samplers import ExactSampler as ExactSampler
from lightning_qsgd.quantum.samplers import FakeBackendSampler as FakeBackendSampler
from lightning_qsgd.quantum.samplers import ShotSampler as ShotSampler
from lightning_qsgd.quantum.score_series import ScoreSeries as ScoreSeries
from lightning_qsgd.quantum.simulator import CircuitSimulator as CircuitSimulator
from lightning_qsgd.quantum.surrogate import FourierSurrogate as FourierSurrogate
