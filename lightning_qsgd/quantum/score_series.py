"""ScoreSeries: the response of trainable circuits to one number each, as Fourier series.

Paper: arXiv 2511.01918, Eq. 4 and 5: Phi = sum_k psi_k(C(score)), k = 1..n. With the score in every Ry, Phi is a
trigonometric polynomial of degree depth * n (Schuld, Sweke, Meyer 2021, arXiv 2008.08605): 1 + 2 * depth * n circuits
determine it for all scores, and its coefficients are differentiable in the angles of the circuit.

Shapes: H series, n qubits, W angles of one circuit, M circuits for one series, J frequencies.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_qsgd.distributed import counted_from_rank_0
from lightning_qsgd.quantum.circuits import Ansatz, Entanglement, score_circuit
from lightning_qsgd.quantum.fourier import basis, nodes
from lightning_qsgd.quantum.layer import CircuitModule
from lightning_qsgd.quantum.network import QuantumNetwork
from lightning_qsgd.quantum.observables import expectation_matrix
from lightning_qsgd.quantum.simulator import CircuitSimulator
from lightning_qsgd.quantum.torch_engine import MAX_QUBITS, Constants

if TYPE_CHECKING:
    from qiskit.primitives import BaseSamplerV2

Readout = Literal["probability", "expectation", "amplitude"]
Source = Literal["circuit", "series", "random"]


class ScoreSeries(CircuitModule):
    """H functions of a score: the responses of the paper's circuit, or a classical control for them.

    Initial angles are uniform in [-pi, pi), drawn from a fork of torch's generator, so that later layers of a model
    have the same initial values with any ``source``. Angles without an effect are left out: those of the last layer's
    Rz, except for amplitudes, and two more with 2 entangled qubits and probabilities.

    A resumed run measures again, with the sampler's noise where it was. It measures the same as an uninterrupted run,
    unless the angles are fixed or ``refresh_every`` is above 1. In a distributed run, only rank 0 runs circuits; the
    other ranks wait in ``forward`` for its results. A forward pass on one rank only must therefore be ``exact``.

    Args:
        count: number of functions H, at least 1.
        num_qubits: qubits of :func:`score_circuit`, 1 to 12. Default: 4.
        depth: layers of it, at least 1. Default: 2.
        entanglement: "linear" or "none". Default: "linear".
        readout: the definition of Phi. "probability" is the sum over k = 1..n of |psi_k|^2, the probability of the
            outcomes 1 to n. "expectation" is the sum of the expectations of Z over the qubits. "amplitude" is the sum
            over k = 1..n of Re psi_k, literally as in the paper; it depends on the unobservable global phase, that is
            on the definition of the gates, so no device can measure it, and it needs the simulator. Default:
            "probability".
        source: "circuit", or a control without a circuit. "series" trains the coefficients of a series with the same
            frequencies, which start at those of a random circuit; "random" keeps random coefficients, of the same
            size on average over a period. Default: "circuit".
        shared: whether all H functions have one circuit. Default: False.
        trainable: whether the angles (or coefficients) are trained. Default: True.
        sampler: where the circuits run. None (default) simulates them exactly, with gradients by autograd. With a
            ``BaseSamplerV2``, a :class:`QuantumNetwork` runs M circuits for each function and, for gradients by
            parameter shifts, two more for each of them and each gate with parameters (17 and 408 for 4 qubits and
            depth 2). Both have shot noise.
        refresh_every: with a sampler, the number of changes of the angles (training steps) between two such runs, at
            least 1. In between, the function is extrapolated to first order in the angles. Passes without gradient run
            M circuits if the angles have changed, so fixed angles are measured once. Default: 1.

    Attributes:
        weights: (H or 1, W) angles, radians, if ``source`` is "circuit".
        coefficients: (H or 1, number of coefficients that a circuit can have) for the other sources.
        angle_factor: radians of the series' angle per radian of score: 1, or 1/2 for amplitudes with odd depth * n,
            which have half-integer frequencies.
        nodes: number of circuits M that determine a function.
        circuits: circuits run so far on the sampler, including those for gradients; 0 on the simulator.
        shots: shots run so far on the sampler.
        seconds: wall-clock seconds spent so far on the sampler.
        exact: set it to True to simulate even if there is a sampler. Default: False.

    Raises:
        ValueError: if an option is invalid, or options contradict each other.
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
        for name, value, choices in (("readout", readout, Readout), ("source", source, Source)):
            if value not in get_args(choices):
                raise ValueError(f"Invalid {name}: {value!r}; it must be one of {', '.join(get_args(choices))}")
        for name, value in (("count", count), ("refresh_every", refresh_every)):
            if value < 1:
                raise ValueError(f"Invalid {name}: {value}; it must be at least 1")
        if sampler is not None and (readout == "amplitude" or source != "circuit"):
            given = f"readout {readout!r}" if readout == "amplitude" else f"phi from source {source!r}"
            raise ValueError(f"Invalid sampler: {type(sampler).__name__}; {given} runs on no device, use sampler=None")
        if sampler is None and refresh_every > 1:
            raise ValueError(f"Invalid refresh_every: {refresh_every}; it needs a sampler")
        self.count, self.readout, self.source, self.refresh_every = count, readout, source, refresh_every
        self.exact = False
        self._changes = 0  # number of changes of the angles in passes with gradient on a network
        self._forget()
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # the same numbers for any device and source
            self.spectrum = ScoreSpectrum(num_qubits, depth, entanglement, readout)
            self.angle_factor, self.nodes = self.spectrum.angle_factor, self.spectrum.nodes
            self.frequencies = self.spectrum.frequencies
            self._simulator = CircuitSimulator(self.spectrum.ansatz, self.spectrum.amplitudes)
            self.remember(self.spectrum.ansatz, f"{readout} {source}")
            self.engine = self._simulator
            if sampler is not None:
                self.engine = QuantumNetwork(self.ansatz.by_row(), sampler)
            weights = torch.empty(1 if shared else count, self.ansatz.num_weights).uniform_(-math.pi, math.pi)
            if source == "circuit":
                self.weights = nn.Parameter(weights, requires_grad=trainable)
                return
            noise = torch.randn(len(weights), len(self.spectrum.free))
            start = self._simulate(weights.float())[:, 1:][:, self.spectrum.free].to(weights.dtype)
            if source == "random":
                start = noise * start.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
            self.coefficients = nn.Parameter(start, requires_grad=trainable and source != "random")

    def _forget(self) -> None:
        """Forget the measurements."""
        self._expansion: tuple[Tensor, Tensor, Tensor] | None = None  # for training: values, Jacobian, weights
        self._last: Tensor | None = None  # weights of the last pass with gradient
        self._measured: tuple[Tensor, Tensor] | None = None  # for evaluation: values, weights

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        before = [(p.dtype, p.device) for p in self.parameters()]
        super()._apply(*args, **kwargs)
        if before != [(p.dtype, p.device) for p in self.parameters()]:
            self._forget()
        return self

    def _load_from_state_dict(self, *args: Any) -> None:  # type: ignore[override]
        self._forget()
        super()._load_from_state_dict(*args)

    @property
    def circuits_per_evaluation(self) -> int:
        """Number of circuits that determine all functions once; 0 for the controls."""
        return len(self.weights) * self.nodes if self.source == "circuit" else 0

    @property
    def circuits_per_gradient(self) -> int:
        """Number of further circuits for the gradients of all functions by parameter shifts."""
        return self.circuits_per_evaluation * self.ansatz.normal_form.num_shifts

    def forward(self) -> Tensor:
        """Compute the coefficients of each function.

        Returns:
            (H, 1 + 2 J), in float32, or float64 if the weights are: those of 1, cos x, sin x, cos 2x, ..., where x is
            ``angle_factor`` times the score. The constant of a control is 0.
        """
        if self.source != "circuit":
            free = self.coefficients.to(torch.promote_types(self.coefficients.dtype, torch.float32))
            out = free.new_zeros(len(free), 1 + 2 * self.frequencies)
            out[:, [1 + i for i in self.spectrum.free]] = free
        else:
            weights = self.weights.to(torch.promote_types(self.weights.dtype, torch.float32))
            with torch.autocast(weights.device.type, enabled=False):
                on_network = isinstance(self.engine, QuantumNetwork) and not self.exact
                out = _on_network(self, weights) if on_network else self._simulate(weights)
        return out.expand(self.count, -1)

    def _simulate(self, weights: Tensor) -> Tensor:
        x, solve, read = self.spectrum.constants(weights.dtype, weights.device)
        rows = weights[:, None].expand(-1, self.nodes, -1).flatten(0, 1)
        outputs = self._simulator(x.repeat(len(weights))[:, None], rows)
        values = (outputs.real if self.spectrum.amplitudes else outputs) @ read
        return values.view(len(weights), -1) @ solve.T

    def _measure(self, weights: Tensor) -> Tensor:
        now = weights.detach()
        if torch.is_grad_enabled() and weights.requires_grad:
            changed = self._last is None or not torch.equal(self._last, now)
            if self._expansion is None or (changed and self._changes % self.refresh_every == 0):
                self._expansion = self._run(now), self._jacobian(now), now.clone()
            if changed:
                self._changes, self._last = self._changes + 1, now.clone()
            values, jacobian, at = self._expansion
            values = values + torch.einsum("hmw,hw->hm", jacobian, weights - at)
        else:
            if self._measured is None or not torch.equal(self._measured[1], now):
                self._measured = self._run(now), now.clone()
            values = self._measured[0]
        return values @ self.spectrum.constants(weights.dtype, weights.device)[1].T

    def _rows(self, weights: Tensor) -> tuple[Any, Tensor]:
        """The nodes of each function with its angles, (H M, 1 + W), and the weights of outcomes (2**n,)."""
        x, _, read = self.spectrum.constants(torch.float64, torch.device("cpu"))
        angles = weights.cpu().double()[:, None].expand(-1, self.nodes, -1).flatten(0, 1)
        return torch.cat([x.repeat(len(weights))[:, None], angles], 1).numpy(), read

    def _network(self) -> QuantumNetwork:
        assert isinstance(self.engine, QuantumNetwork)
        return self.engine

    @torch.inference_mode(False)  # cached tensors must work with autograd later
    def _run(self, weights: Tensor) -> Tensor:  # (H, M)
        engine, (rows, read) = self._network(), self._rows(weights)
        values = torch.from_numpy(counted_from_rank_0(engine, lambda: engine.probabilities(rows))) @ read
        return values.view(len(weights), -1).to(weights.dtype).to(weights.device)

    @torch.inference_mode(False)
    def _jacobian(self, weights: Tensor) -> Tensor:  # (H, M, W)
        engine, (rows, read) = self._network(), self._rows(weights)

        def jacobian() -> Tensor:  # reduced before it is sent to other ranks
            by_inputs = torch.from_numpy(engine.jacobian(rows, of="inputs")[0])  # (H M, 2**n, 1 + W)
            return torch.einsum("row,o->rw", by_inputs[..., 1:], read)

        by_angles = counted_from_rank_0(engine, jacobian)
        return by_angles.view(len(weights), self.nodes, -1).to(weights.dtype).to(weights.device)

    @torch.no_grad()
    def error(self) -> Tensor:
        """Root mean square error over a period, without the constants: (H,)."""
        measured, before = self(), self.exact
        try:
            self.exact = True
            return _spread(measured - self())
        finally:
            self.exact = before

    @torch.no_grad()
    def spread(self) -> Tensor:
        """Standard deviation of each function over a period: (H,)."""
        return _spread(self())

    def extra_repr(self) -> str:
        """Sizes and options, for ``print(module)``."""
        return (
            f"count={self.count}, num_qubits={self.ansatz.num_qubits}, readout={self.readout!r}, "
            f"source={self.source!r}, frequencies={self.frequencies}, engine={self.engine_name}"
        )


# torch.compile does not compile it, only the code around it.
_on_network: Any = torch.compiler.disable(ScoreSeries._measure)


def _spread(coefficients: Tensor) -> Tensor:
    return (coefficients[:, 1:].square().sum(1) / 2).sqrt()


class ScoreSpectrum(Constants):
    """The circuit of a score, its readout, and the scores that determine its series.

    Args:
        num_qubits, depth, entanglement, readout: as in :class:`ScoreSeries`.

    Attributes:
        ansatz: the circuit, without the angles that have no effect except on the constant of the series.
        amplitudes: whether amplitudes are read instead of probabilities.
        nodes: number of scores M.
        frequencies: number of frequencies J, multiples of the series' angle.
        angle_factor: radians of the series' angle per radian of score: 1, or 1/2 for half-integer frequencies.
        free: indices of the coefficients (of cos x, sin x, cos 2x, ...) that can differ from 0.
    """

    def __init__(self, num_qubits: int, depth: int, entanglement: Entanglement, readout: Readout) -> None:
        if num_qubits > MAX_QUBITS:
            raise ValueError(f"Invalid num_qubits: {num_qubits}; it must be at most {MAX_QUBITS}")
        self.amplitudes = readout == "amplitude"
        ansatz = score_circuit(num_qubits, depth, entanglement, final_phases=self.amplitudes)
        read = _reading(readout, num_qubits)
        self.ansatz = _observable(ansatz, self.amplitudes, read)
        local = readout == "expectation" and entanglement == "none"  # a sum of one series for each qubit
        degree = depth if local else depth * num_qubits
        odd = self.amplitudes and degree % 2 == 1
        self.angle_factor = 0.5 if odd else 1.0
        self.frequencies = degree // 2 if self.amplitudes and not odd else degree
        self.nodes = degree + 1 if self.amplitudes else 2 * degree + 1
        x = nodes(self.nodes)
        waves = basis(self.angle_factor * x, 1 + 2 * self.frequencies)  # (M, 1 + 2 J)
        used = [i for i in range(waves.shape[1]) if not odd or (i + 1) // 2 % 2]  # frequencies j / 2 with odd j
        solve = torch.zeros(waves.shape[1], self.nodes, dtype=torch.float64)
        solve[used] = torch.linalg.inv(waves[:, used])
        self.free = [i - 1 for i in used if i]
        self._exact = x, solve, read
        self.reset_constants()

    def make_constants(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
        """Scores (M,), the matrix from values to coefficients (1 + 2 J, M), and weights of outcomes in Phi (2**n,)."""
        return tuple(x.to(dtype, copy=True).to(device) for x in self._exact)


def _reading(readout: Readout, num_qubits: int) -> Tensor:
    if readout == "expectation":
        return expectation_matrix([f"Z{q}" for q in range(num_qubits)], num_qubits).sum(1)
    outcomes = torch.arange(2**num_qubits)
    return ((outcomes >= 1) & (outcomes <= num_qubits)).double()


@torch.inference_mode(False)
@torch.enable_grad()
def _observable(ansatz: Ansatz, amplitudes: bool, read: Tensor) -> Ansatz:
    """Fix the angles at 0 that have no effect except on the constant of Phi.

    Derivatives are analytic in the angles, so one that is 0 at random points is 0 everywhere.
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
