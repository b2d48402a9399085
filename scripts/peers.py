# pyright: reportMissingImports=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportReturnType=false
# (The type checker may not find the other libraries, which are the extra `bench`, and their types are wide.)
"""The paper's circuit in this package and in other libraries, as a torch user would write it for speed.

Its depth is 2; for 2 qubits it is 15, for many gates on few amplitudes.

Shapes: B batch, n qubits, L layers; inputs x (B, n), weights ((2L - 1) n,) = theta (L x n), phi ((L - 1) x n), in
radians; outputs (B, 2**n). A maker takes (n, B, initial weights) and returns the function of x and the weights' leaf
tensor.

TorchQuantum is not in the extra `bench`, because it requires torchvision, whose wheel breaks torchmetrics with a CPU
build of torch. To measure it, make a separate environment (torchquantum itself, of 2024, needs qiskit below 1):
pip install -c constraints.txt '.[bench]' torchquantum-ng torchvision==0.28.0; pip uninstall torchvision
"""

import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Literal
from unittest.mock import MagicMock

import torch
from torch import Tensor

from lightning_qsgd.quantum import QuantumLayer, superposition_circuit

warnings.filterwarnings("ignore", "Complex modules are a new feature")  # torch's, about pyqtorch's modules

Forward = Callable[[Tensor], Tensor]
Maker = Callable[[int, int, Tensor], tuple[Forward, Tensor]]


@dataclass
class Side:
    """A library, and how to call it.

    Args:
        name: printed name.
        make: builds the function.
        state: dtype of the statevector. The side is compared with this package in the same precision.
        dtype: dtype of inputs and weights.
        package: module that must be installed, or None.
        big_endian: whether qubit 0 is the highest bit of an outcome.
        feasible: returns whether to run it for (n, B).
        optional: whether it is left out if it is not installed, because it is not in the extra `bench`.
    """

    name: str
    make: Maker
    state: torch.dtype = torch.complex64
    dtype: torch.dtype = torch.float32
    package: str | None = None
    big_endian: bool = True
    feasible: Callable[[int, int], bool] = lambda num_qubits, batch: True
    optional: bool = False

    @property
    def installed(self) -> bool:
        return self.package is None or find_spec(self.package) is not None

    @property
    def slow(self) -> bool:
        return self.make is torch_connector


def depth_of(num_qubits: int) -> int:
    return 15 if num_qubits == 2 else 2


def ours(
    num_qubits: int,
    batch: int,
    weights: Tensor,
    engine: Literal["native", "torch"] = "native",
    output: Literal["probabilities", "expectations"] = "probabilities",
) -> tuple[Forward, Tensor]:
    layer = QuantumLayer(superposition_circuit(num_qubits, depth_of(num_qubits)), output, engine)
    layer.weights = torch.nn.Parameter(weights)
    return layer, layer.weights


def pennylane_z(num_qubits: int, batch: int, weights: Tensor, device: str, method: str) -> tuple[Forward, Tensor]:
    """As below, with Z of each qubit, which lightning.qubit differentiates by its adjoint method, row by row."""
    circuit, leaf = pennylane(num_qubits, batch, weights, device, method, z=True)
    return lambda x: torch.stack(list(circuit(x)), -1), leaf


def pennylane(
    num_qubits: int,
    batch: int,
    weights: Tensor,
    device: str = "default.qubit",
    method: str = "backprop",
    z: bool = False,
) -> tuple[Forward, Tensor]:
    """default.qubit, backpropagation, the batch broadcast through each gate. Its state is always complex128."""
    import pennylane as qml

    n, leaf = num_qubits, torch.nn.Parameter(weights)

    @qml.qnode(qml.device(device, wires=n), interface="torch", diff_method=method)
    def circuit(x: Tensor):
        for theta, phi in _layers(leaf, n):
            for q in range(n):
                qml.H(q)
                qml.RY(x[:, q] + theta[q], q)
                if phi is not None:
                    qml.RZ(phi[q], q)
            for q in range(n - 1):
                qml.CNOT([q, q + 1])
        return [qml.expval(qml.Z(q)) for q in range(n)] if z else qml.probs(wires=range(n))

    return circuit, leaf


def pennylane_fused(num_qubits: int, batch: int, weights: Tensor) -> tuple[Forward, Tensor]:
    """As above, the one-qubit gates multiplied beforehand and passed as broadcast matrices."""
    import pennylane as qml

    n, leaf = num_qubits, torch.nn.Parameter(weights)

    @qml.qnode(qml.device("default.qubit", wires=n), interface="torch", diff_method="backprop")
    def circuit(x: Tensor):
        for gates in _fused_gates(x, leaf):
            for q in range(n):
                qml.QubitUnitary(gates[:, q], q)
            for q in range(n - 1):
                qml.CNOT([q, q + 1])
        return qml.probs(wires=range(n))

    return circuit, leaf


def pyqtorch(num_qubits: int, batch: int, weights: Tensor) -> tuple[Forward, Tensor]:
    """Gates of a qubit merged (as fast as single ones at 4 qubits, faster from 8); the state starts as one row."""
    import pyqtorch as pyq

    n, leaf, operations, depth = num_qubits, torch.nn.Parameter(weights), [], depth_of(num_qubits)
    for layer in range(depth):
        for q in range(n):
            gates = [pyq.H(q), pyq.RY(q, f"y{layer}_{q}"), pyq.RZ(q, f"z{layer}_{q}")]
            operations.append(pyq.Merge(gates[: 2 if layer == depth - 1 else 3]))
        operations += [pyq.CNOT(q, q + 1) for q in range(n - 1)]
    circuit = pyq.QuantumCircuit(n, operations).to(torch.complex64)
    names = [f"{kind}{layer}_{q}" for kind in "yz" for layer in range(depth) for q in range(n)]

    def forward(x: Tensor) -> Tensor:
        turns = x.repeat(1, depth) + leaf[: depth * n]
        values = dict(zip(names, [*turns.unbind(1), *leaf[depth * n :].unbind()], strict=False))
        state = circuit.run(values=values).reshape(2**n, -1).T
        return state.real**2 + state.imag**2

    return forward, leaf


def tensorcircuit(num_qubits: int, batch: int, weights: Tensor) -> tuple[Forward, Tensor]:
    """Torch backend under vmap; its jit does nothing there, and with torch.compile it is slower."""
    tc = _tensorcircuit(num_qubits, batch)
    n, leaf = num_qubits, torch.nn.Parameter(weights)

    def row(x: Tensor, weights: Tensor) -> Tensor:
        circuit = tc.Circuit(n)
        for theta, phi in _layers(weights, n):
            for q in range(n):
                circuit.h(q)
                circuit.ry(q, theta=x[q] + theta[q])
                if phi is not None:
                    circuit.rz(q, theta=phi[q])
            for q in range(n - 1):
                circuit.cnot(q, q + 1)
        state = circuit.state()
        return state.real**2 + state.imag**2

    rows = tc.backend.vmap(row, vectorized_argnums=0)
    return lambda x: rows(x, leaf), leaf


def tensorcircuit_fused(num_qubits: int, batch: int, weights: Tensor) -> tuple[Forward, Tensor]:
    """As above, the one-qubit gates multiplied beforehand."""
    tc = _tensorcircuit(num_qubits, batch)
    n, leaf = num_qubits, torch.nn.Parameter(weights)

    def row(*layers: Tensor) -> Tensor:
        circuit = tc.Circuit(n)
        for gates in layers:
            for q in range(n):
                circuit.any(q, unitary=gates[q])
            for q in range(n - 1):
                circuit.cnot(q, q + 1)
        state = circuit.state()
        return state.real**2 + state.imag**2

    rows = tc.backend.vmap(row, vectorized_argnums=tuple(range(depth_of(n))))
    return lambda x: rows(*_fused_gates(x, leaf)), leaf


def torchquantum(num_qubits: int, batch: int, weights: Tensor) -> tuple[Forward, Tensor]:
    """Gate functions on a QuantumDevice: faster than its modules, its static mode and its other way of multiplying."""
    tq, n, leaf = _torchquantum(), num_qubits, torch.nn.Parameter(weights)
    device = tq.QuantumDevice(n_wires=n)

    def forward(x: Tensor) -> Tensor:
        device.reset_states(x.shape[0])
        for theta, phi in _layers(leaf, n):
            for q in range(n):
                tq.functional.hadamard(device, wires=q)
                tq.functional.ry(device, wires=q, params=x[:, q] + theta[q])
                if phi is not None:
                    tq.functional.rz(device, wires=q, params=phi[q])
            for q in range(n - 1):
                tq.functional.cnot(device, wires=[q, q + 1])
        state = device.get_states_1d()
        return state.real**2 + state.imag**2

    return forward, leaf


def torchquantum_fused(num_qubits: int, batch: int, weights: Tensor) -> tuple[Forward, Tensor]:
    """As above, the one-qubit gates multiplied beforehand."""
    tq, n, leaf = _torchquantum(), num_qubits, torch.nn.Parameter(weights)
    device = tq.QuantumDevice(n_wires=n)

    def forward(x: Tensor) -> Tensor:
        device.reset_states(x.shape[0])
        for gates in _fused_gates(x, leaf):
            for q in range(n):
                tq.functional.qubitunitaryfast(device, wires=q, params=gates[:, q])
            for q in range(n - 1):
                tq.functional.cnot(device, wires=[q, q + 1])
        state = device.get_states_1d()
        return state.real**2 + state.imag**2

    return forward, leaf


def torch_connector(num_qubits: int, batch: int, weights: Tensor) -> tuple[Forward, Tensor]:
    """qiskit-machine-learning's own layer: exact SamplerQNN, gradients by its default parameter shift."""
    from qiskit_machine_learning.connectors import TorchConnector
    from qiskit_machine_learning.neural_networks import SamplerQNN
    from qiskit_machine_learning.primitives import QMLSampler

    ansatz = superposition_circuit(num_qubits, depth_of(num_qubits))
    qnn = SamplerQNN(
        circuit=ansatz.circuit,
        sampler=QMLSampler(shots=None),
        input_params=ansatz.inputs,
        weight_params=ansatz.weights,
        input_gradients=True,
    )
    connector = TorchConnector(qnn, initial_weights=weights.numpy())
    return connector, connector.weight


def _tensorcircuit(num_qubits: int, batch: int):
    import tensorcircuit as tc

    tc.set_backend("pytorch")
    # The faster of its contractors for this circuit: the other one takes 1.1 to 2 times as long.
    tc.set_contractor("greedy" if num_qubits > 8 and batch > 1 else "plain-experimental")
    return tc


def _torchquantum():
    for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.datasets.utils"):
        sys.modules.setdefault(name, MagicMock())  # its data sets need it, and nothing here
    import torchquantum as tq

    return tq


def _layers(weights: Tensor, n: int) -> list[tuple[Tensor, Tensor | None]]:
    """theta (n,) and phi (n,) of each layer; the last has no phi."""
    depth = depth_of(n)
    rows = weights.view(2 * depth - 1, n)
    return [(rows[layer], rows[depth + layer] if layer < depth - 1 else None) for layer in range(depth)]


def _fused_gates(x: Tensor, weights: Tensor) -> list[Tensor]:  # of each layer: (B, n, 2, 2), complex
    half = math.sqrt(0.5)
    hadamard, layers = x.new_tensor([[half, half], [half, -half]]), []
    for theta, phi in _layers(weights, x.shape[1]):
        cos, sin = ((x + theta) / 2).cos(), ((x + theta) / 2).sin()
        rotation = torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))
        gates = (rotation @ hadamard).to(torch.promote_types(x.dtype, torch.complex32))
        if phi is not None:
            phase = torch.polar(torch.ones_like(phi), phi / 2)
            gates = gates * torch.stack([phase.conj(), phase], -1).unsqueeze(-1)
        layers.append(gates)
    return layers


def fits(most: int) -> Callable[[int, int], bool]:
    """Up to so many qubits, and 2**24 amplitudes in all, which keep a round within seconds."""
    return lambda num_qubits, batch: num_qubits <= most and batch << num_qubits <= 2**24


#: Sides whose outputs are Z of each qubit, (B, n).
Z_SIDES = [
    Side("lightning_qsgd", partial(ours, output="expectations"), big_endian=False),
    Side(
        "lightning_qsgd, float64",
        partial(ours, output="expectations"),
        torch.complex128,
        torch.float64,
        big_endian=False,
    ),
    Side(
        "PennyLane default.qubit, backprop",
        partial(pennylane_z, device="default.qubit", method="backprop"),
        torch.complex128,
        package="pennylane",
        big_endian=False,
    ),
    Side(
        "PennyLane lightning.qubit, adjoint",
        partial(pennylane_z, device="lightning.qubit", method="adjoint"),
        torch.complex128,
        package="pennylane_lightning",
        big_endian=False,
        feasible=lambda num_qubits, batch: batch <= 32,
    ),
]
SIDES = [
    Side("lightning_qsgd", ours, big_endian=False),
    Side("lightning_qsgd, float64", ours, torch.complex128, torch.float64, big_endian=False),
    Side("lightning_qsgd, torch engine", partial(ours, engine="torch"), big_endian=False, feasible=fits(12)),
    Side("PennyLane", pennylane, torch.complex128, package="pennylane", feasible=fits(16)),
    Side("pyqtorch", pyqtorch, package="pyqtorch", feasible=fits(16)),
    Side("tensorcircuit-ng", tensorcircuit, package="tensorcircuit", feasible=fits(16)),
    Side("TorchQuantum", torchquantum, package="torchquantum", optional=True, feasible=fits(16)),
    Side("PennyLane, gates fused by hand", pennylane_fused, torch.complex128, package="pennylane", feasible=fits(16)),
    Side("tensorcircuit-ng, gates fused by hand", tensorcircuit_fused, package="tensorcircuit", feasible=fits(16)),
    Side(
        "TorchQuantum, gates fused by hand",
        torchquantum_fused,
        package="torchquantum",
        optional=True,
        feasible=fits(16),
    ),
    Side(
        "TorchConnector(SamplerQNN), exact",
        torch_connector,
        torch.complex128,
        big_endian=False,
        feasible=lambda num_qubits, batch: num_qubits == 4 and batch <= 32,
    ),
]
