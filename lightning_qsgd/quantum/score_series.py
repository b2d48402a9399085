"""ScoreSeries: the response of circuits to one number each, as Fourier series with trainable circuits behind them.

Paper: arXiv 2511.01918, Eq. 4 and 5: Phi = sum_k psi_k(C(score)), k = 1..n. With the score in every Ry, Phi is a
trigonometric polynomial of degree depth * n (Schuld, Sweke, Meyer 2021, arXiv 2008.08605): 1 + 2 * depth * n circuits
determine it for all scores, and its coefficients are differentiable in the circuit's angles.

Shapes: H series, n qubits, W angles of one circuit, M circuits for one series, J frequencies.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_qsgd.quantum.circuits import Ansatz, Entanglement, score_circuit
from lightning_qsgd.quantum.fourier import basis
from lightning_qsgd.quantum.layer import CircuitModule
from lightning_qsgd.quantum.network import QuantumNetwork
from lightning_qsgd.quantum.observables import expectation_matrix
from lightning_qsgd.quantum.simulator import CircuitSimulator

if TYPE_CHECKING:
    from qiskit.primitives import BaseSamplerV2

Readout = Literal["probability", "expectation", "amplitude"]
Source = Literal["circuit", "series", "random"]


class ScoreSeries(CircuitModule):
    """H functions of one angle: what the paper's circuit answers to a score, or a classical control for it.

    Args:
        count: H.
        num_qubits, depth, entanglement: of :func:`score_circuit`. Defaults: 4, 2, "linear".
        readout: what is read for Phi. "probability" (default): sum over k = 1..n of |psi_k|^2, the probability of the
            outcomes 1 to n. "expectation": sum of <Z_k> over the qubits. "amplitude": sum over k = 1..n of Re psi_k,
            the paper's letter; it depends on the unobservable global phase, that is on how gates are written down, and
            no device can measure it: on the simulator only.
        source: "circuit" (default). Controls without a circuit: "series", a series of the same frequencies whose
            coefficients are trained themselves and start at those of a random circuit; "random": one with fixed random
            coefficients, as large on average over a period.
        shared: one circuit for all H. Default: False.
        trainable: False: the angles (or coefficients) stay as they were drawn. Default: True.
        sampler: None (default): exact simulation, by autograd. A ``BaseSamplerV2``: a :class:`QuantumNetwork` runs M
            circuits for each series and, for the gradient, two more for each of them and each gate with parameters (4
            qubits, depth 2: 17 and 408), by parameter shift; shot noise propagates into both.
        refresh_every: with a sampler, passes between two such runs, at least 1; passes in between take the series to
            first order in the angles. Default: 1. Passes without gradient run M circuits when the angles have changed.

    Angles are uniform in [-pi, pi), from a fork of torch's generator: a model with other layers behind this one gets
    the same initial values for them with any source. Angles that change nothing are left out: the last layer's Rz,
    except for amplitudes, and with 2 entangled qubits and probabilities (the parity) two more. A resumed run, or one
    under activation checkpointing, measures anew.

    Attributes:
        weights: (H or 1, W) radians, for source "circuit"; ``coefficients`` (H or 1, 2 J) for the others.
        angle_factor: radians of the series' own angle per radian of score: 1, but 1/2 for amplitudes where depth * n is
            odd, which have half-integer frequencies.
        circuits, shots, seconds: run so far on the network; 0 on the simulator.
        nodes: M.
        exact: set to True, simulate even if there is a sampler. Default: False.

    Raises:
        ValueError: for an invalid option, or a combination that cannot be.
    """

    def __init__(
        self,
        count: int,
        num_qubits: int = 4,
        depth: int = 2,
        entanglement: Entanglement = "linear",
        *,
        readout: Readout = "probability",
        source: Source = "circuit",
        shared: bool = False,
        trainable: bool = True,
        sampler: BaseSamplerV2 | None = None,
        refresh_every: int = 1,
    ) -> None:
        super().__init__()
        _check_choice("readout", readout, Readout)
        _check_choice("source", source, Source)
        for name, value in (("count", count), ("refresh_every", refresh_every)):
            if value < 1:
                raise ValueError(f"Invalid {name}: {value}; it must be at least 1")
        if sampler is not None and (readout == "amplitude" or source != "circuit"):
            given = f"readout {readout!r}" if readout == "amplitude" else f"source {source!r}"
            raise ValueError(f"Invalid sampler: {type(sampler).__name__}; {given} runs on no device, so sampler=None")
        if source == "random" and trainable:
            trainable = False
        amplitude = readout == "amplitude"
        read = _reading(readout, num_qubits)
        ansatz = _observable(score_circuit(num_qubits, depth, entanglement, final_phases=amplitude), amplitude, read)
        self.count, self.readout, self.source, self.refresh_every = count, readout, source, refresh_every
        self._simulator = CircuitSimulator(ansatz, amplitudes=amplitude)
        self.engine: CircuitSimulator | QuantumNetwork = self._simulator
        if sampler is not None:
            self.engine = QuantumNetwork(Ansatz(ansatz.circuit, [*ansatz.inputs, *ansatz.weights]), sampler)
        self.remember(ansatz, readout)

        degree = depth * num_qubits
        odd = amplitude and degree % 2 == 1
        self.angle_factor = 0.5 if odd else 1.0
        self.frequencies = degree // 2 if amplitude and not odd else degree
        self.nodes = degree + 1 if amplitude else 2 * degree + 1
        x = 2 * math.pi * torch.arange(self.nodes, dtype=torch.float64) / self.nodes
        waves = basis(self.angle_factor * x, 1 + 2 * self.frequencies)  # (M, 1 + 2 J)
        solve = torch.zeros(1 + 2 * self.frequencies, self.nodes, dtype=torch.float64)
        used = [i for i in range(len(solve)) if not odd or (i + 1) // 2 % 2]  # frequencies j / 2 with odd j
        solve[used] = torch.linalg.inv(waves[:, used])
        self.register_buffer("_x", x, persistent=False)
        self.register_buffer("_solve", solve, persistent=False)
        self.register_buffer("_read", read, persistent=False)
        self._x: Tensor
        self._solve: Tensor
        self._read: Tensor

        with torch.random.fork_rng(devices=[]):
            weights = torch.empty(1 if shared else count, ansatz.num_weights).uniform_(-math.pi, math.pi)
            noise = torch.randn(len(weights), 2 * self.frequencies)
        if source == "circuit":
            self.weights = nn.Parameter(weights, requires_grad=trainable)
        else:
            start = self._simulate(weights)[:, 1:]
            if source == "random":
                start = noise * start.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
            self.coefficients = nn.Parameter(start, requires_grad=trainable)
        self.exact = False
        self._passes = 0  # with gradient, on a network
        self._expansion: tuple[Tensor, Tensor, Tensor] | None = None  # for training: values, Jacobian, weights
        self._measured: tuple[Tensor, Tensor] | None = None  # for evaluation: values, weights

    @property
    def circuits_per_evaluation(self) -> int:
        """Circuits that determine all series once; 0 without circuits."""
        return len(self.weights) * self.nodes if self.source == "circuit" else 0

    @property
    def circuits_per_gradient(self) -> int:
        """Further circuits that parameter shifts need for the gradient of all series."""
        circuit = self.ansatz.circuit
        gates = sum(bool(getattr(i.operation.params[0], "parameters", ())) for i in circuit.data if i.operation.params)
        return self.circuits_per_evaluation * 2 * gates

    def forward(self) -> Tensor:
        """Coefficients of each series.

        Returns:
            (H, 1 + 2 J), float32, or float64 if the weights are: constant, cos x, sin x, cos 2x, ... of the series' own
            angle, which is ``angle_factor`` times the score's. The constant of a control is 0.
        """
        if self.source != "circuit":
            free = self.coefficients.to(torch.promote_types(self.coefficients.dtype, torch.float32))
            out = torch.cat([torch.zeros_like(free[:, :1]), free], 1)
        else:
            weights = self.weights.to(torch.promote_types(self.weights.dtype, torch.float32))
            with torch.autocast(weights.device.type, enabled=False):
                on_network = isinstance(self.engine, QuantumNetwork) and not self.exact
                out = _on_network(self, weights) if on_network else self._simulate(weights)
        return out.expand(self.count, -1)

    def _simulate(self, weights: Tensor) -> Tensor:
        rows = weights[:, None].expand(-1, self.nodes, -1).flatten(0, 1)
        inputs = self._x.to(weights.dtype).repeat(len(weights))[:, None]
        outputs = self._simulator(inputs, rows)
        values = (outputs.real if self.readout == "amplitude" else outputs) @ self._read.to(weights.dtype)
        return values.view(len(weights), -1) @ self._solve.T.to(weights.dtype)

    def _measure(self, weights: Tensor) -> Tensor:
        needed = torch.is_grad_enabled() and weights.requires_grad
        now = weights.detach()
        if needed:
            if self._expansion is None or self._passes % self.refresh_every == 0:
                self._expansion = self._run(now), self._jacobian(now), now.clone()
            self._passes += 1
            values, jacobian, at = self._expansion
            values = values + torch.einsum("hmw,hw->hm", jacobian, weights - at)
        else:
            if self._measured is None or not torch.equal(self._measured[1], now):
                self._measured = self._run(now), now.clone()
            values = self._measured[0]
        return values @ self._solve.T.to(weights.dtype)

    def _rows(self, weights: Tensor) -> Any:
        """(H M, 1 + W): each series' nodes with its angles."""
        angles = weights.double().cpu()[:, None].expand(-1, self.nodes, -1).flatten(0, 1)
        return torch.cat([self._x.cpu().repeat(len(weights))[:, None], angles], 1).numpy()

    @torch.inference_mode(False)  # what is kept must serve autograd later
    def _run(self, weights: Tensor) -> Tensor:  # (H, M)
        assert isinstance(self.engine, QuantumNetwork)
        values = torch.from_numpy(self.engine.probabilities(self._rows(weights))) @ self._read.cpu().double()
        return values.view(len(weights), -1).to(weights)

    @torch.inference_mode(False)
    def _jacobian(self, weights: Tensor) -> Tensor:  # (H, M, W)
        assert isinstance(self.engine, QuantumNetwork)
        by_inputs = torch.from_numpy(self.engine.jacobian(self._rows(weights), of="inputs")[0])  # (H M, 2**n, 1 + W)
        by_angles = torch.einsum("row,o->rw", by_inputs[..., 1:], self._read.cpu().double())
        return by_angles.view(len(weights), self.nodes, -1).to(weights)

    @torch.no_grad()
    def error(self) -> Tensor:
        """(H,): root mean square, over a period, of the distance from the exact series; constants apart."""
        measured, before = self(), self.exact
        try:
            self.exact = True
            return _spread(measured - self())
        finally:
            self.exact = before

    @torch.no_grad()
    def spread(self) -> Tensor:
        """(H,): standard deviation of each series over a period."""
        return _spread(self())

    def extra_repr(self) -> str:
        """Sizes and options, for ``print(module)``."""
        engine = "simulator" if isinstance(self.engine, CircuitSimulator) else type(self.engine.sampler).__name__
        return (
            f"count={self.count}, num_qubits={self.ansatz.num_qubits}, readout={self.readout!r}, "
            f"source={self.source!r}, frequencies={self.frequencies}, engine={engine}"
        )


# torch.compile runs it as it is, and compiles what is around it.
_on_network: Any = torch.compiler.disable(ScoreSeries._measure)


def _reading(readout: Readout, num_qubits: int) -> Tensor:
    """(2**n,) float64: weights of the outcomes (or amplitudes) in Phi."""
    if readout == "expectation":
        return expectation_matrix([f"Z{q}" for q in range(num_qubits)], num_qubits).sum(1)
    outcomes = torch.arange(2**num_qubits)
    return ((outcomes >= 1) & (outcomes <= num_qubits)).double()


@torch.inference_mode(False)
@torch.enable_grad()
def _observable(ansatz: Ansatz, amplitudes: bool, read: Tensor) -> Ansatz:
    """The ansatz with those angles fixed at 0 that never change more than Phi's constant.

    Derivatives are analytic in the angles: what is 0 at random points is 0.
    """
    generator = torch.Generator().manual_seed(0)
    x = 6 * torch.rand(8, 1, dtype=torch.float64, generator=generator)
    weights = 6 * torch.rand(8, ansatz.num_weights, dtype=torch.float64, generator=generator)
    weights.requires_grad_()
    simulate = CircuitSimulator(ansatz, amplitudes)
    difference = simulate(x, weights) - simulate(x + 1, weights)
    (gradient,) = torch.autograd.grad(((difference.real if amplitudes else difference) @ read).sum(), weights)
    seen = (gradient.abs().amax(0) > 1e-12).tolist()
    fixed = {p: 0.0 for p, is_seen in zip(ansatz.weights, seen, strict=True) if not is_seen}
    if not fixed:
        return ansatz
    return Ansatz(ansatz.circuit.assign_parameters(fixed), ansatz.inputs, [p for p in ansatz.weights if p not in fixed])


def _spread(coefficients: Tensor) -> Tensor:
    return (coefficients[:, 1:].square().sum(1) / 2).sqrt()


def _check_choice(name: str, value: Any, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"Invalid {name}: {value!r}; it must be one of {', '.join(get_args(choices))}")
