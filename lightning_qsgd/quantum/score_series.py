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

from lightning_qsgd.distributed import counted_from_rank_0
from lightning_qsgd.quantum.circuits import Ansatz, Entanglement
from lightning_qsgd.quantum.layer import CircuitModule
from lightning_qsgd.quantum.network import QuantumNetwork
from lightning_qsgd.quantum.score_spectrum import Readout, ScoreSpectrum
from lightning_qsgd.quantum.simulator import CircuitSimulator

if TYPE_CHECKING:
    from qiskit.primitives import BaseSamplerV2

Source = Literal["circuit", "series", "random"]


class ScoreSeries(CircuitModule):
    """H functions of one angle: what the paper's circuit answers to a score, or a classical control for it.

    Args:
        count: H.
        num_qubits, depth, entanglement: of :func:`score_circuit`. Defaults: 4, 2, "linear".
        readout: what is read for Phi. "probability" (default): sum over k = 1..n of |psi_k|^2, the probability of the
            outcomes 1 to n. "expectation": sum of the means of Z_k over the qubits. "amplitude": sum over k = 1..n of
            Re psi_k, the paper's letter; it depends on the unobservable global phase, that is on how gates are written
            down, and no device can measure it: on the simulator only.
        source: "circuit" (default). Controls without a circuit: "series", a series of the same frequencies whose
            coefficients are trained themselves and start at those of a random circuit; "random": one with fixed random
            coefficients, as large on average over a period.
        shared: one circuit for all H. Default: False.
        trainable: False: the angles (or coefficients) stay as they were drawn. Default: True.
        sampler: None (default): exact simulation, by autograd. A ``BaseSamplerV2``: a :class:`QuantumNetwork` runs M
            circuits for each series and, for the gradient, two more for each of them and each gate with parameters (4
            qubits, depth 2: 17 and 408), by parameter shift; shot noise propagates into both.
        refresh_every: with a sampler, changes of the angles (training steps) between two such runs, at least 1; in
            between the series is taken to first order in the angles. Default: 1. Passes without gradient run M
            circuits when the angles have changed; so fixed angles are measured once.

    Angles are uniform in [-pi, pi), from a fork of torch's generator: a model with other layers behind this one gets
    the same initial values for them with any source. Angles that change nothing are left out: the last layer's Rz,
    except for amplitudes, and with 2 entangled qubits and probabilities (the parity) two more. A resumed run
    measures anew, from where the sampler's noise was: exactly what the uninterrupted one would measure, unless the
    angles are fixed or refresh_every is above 1. In a distributed run, rank 0 alone runs circuits and the others, which
    wait in ``forward``, receive its numbers: the angles are the same on all ranks, so a forward pass on one rank alone
    must be ``exact``.

    Attributes:
        weights: (H or 1, W) radians, for source "circuit"; ``coefficients`` (H or 1, those that a circuit can have)
            for the others.
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
        for name, value, choices in (("readout", readout, Readout), ("source", source, Source)):
            if value not in get_args(choices):
                raise ValueError(f"Invalid {name}: {value!r}; it must be one of {', '.join(get_args(choices))}")
        for name, value in (("count", count), ("refresh_every", refresh_every)):
            if value < 1:
                raise ValueError(f"Invalid {name}: {value}; it must be at least 1")
        if sampler is not None and (readout == "amplitude" or source != "circuit"):
            given = f"readout {readout!r}" if readout == "amplitude" else f"phi from source {source!r}"
            raise ValueError(f"Invalid sampler: {type(sampler).__name__}; {given} runs on no device, so sampler=None")
        if sampler is None and refresh_every > 1:
            raise ValueError(f"Invalid refresh_every: {refresh_every}; it needs a sampler")
        self.count, self.readout, self.source, self.refresh_every = count, readout, source, refresh_every
        self.exact = False
        self._changes = 0  # of the angles, with gradient, on a network
        self._forget()
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # the same numbers for any device and source
            self.spectrum = ScoreSpectrum(num_qubits, depth, entanglement, readout)
            self.angle_factor, self.nodes = self.spectrum.angle_factor, self.spectrum.nodes
            self.frequencies = self.spectrum.frequencies
            self._simulator = CircuitSimulator(self.spectrum.ansatz, amplitudes=self.spectrum.amplitudes)
            self.remember(self.spectrum.ansatz, f"{readout} {source}")
            self.engine = self._simulator
            if sampler is not None:
                self.engine = QuantumNetwork(
                    Ansatz(self.ansatz.circuit, [*self.ansatz.inputs, *self.ansatz.weights]), sampler
                )
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
        """Drop what was measured."""
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
        """Circuits that determine all series once; 0 without circuits."""
        return len(self.weights) * self.nodes if self.source == "circuit" else 0

    @property
    def circuits_per_gradient(self) -> int:
        """Further circuits that parameter shifts need for the gradient of all series."""
        return self.circuits_per_evaluation * self.ansatz.normal_form.num_shifts

    def forward(self) -> Tensor:
        """Coefficients of each series.

        Returns:
            (H, 1 + 2 J), float32, or float64 if the weights are: constant, cos x, sin x, cos 2x, ... of the series' own
            angle, which is ``angle_factor`` times the score's. The constant of a control is 0.
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
        """Each series' nodes with its angles, (H M, 1 + W), and the weights of outcomes (2**n,)."""
        x, _, read = self.spectrum.constants(torch.float64, torch.device("cpu"))
        angles = weights.cpu().double()[:, None].expand(-1, self.nodes, -1).flatten(0, 1)
        return torch.cat([x.repeat(len(weights))[:, None], angles], 1).numpy(), read

    def _network(self) -> QuantumNetwork:
        assert isinstance(self.engine, QuantumNetwork)
        return self.engine

    @torch.inference_mode(False)  # what is kept must serve autograd later
    def _run(self, weights: Tensor) -> Tensor:  # (H, M)
        engine, (rows, read) = self._network(), self._rows(weights)
        values = torch.from_numpy(counted_from_rank_0(engine, lambda: engine.probabilities(rows))) @ read
        return values.view(len(weights), -1).to(weights.dtype).to(weights.device)

    @torch.inference_mode(False)
    def _jacobian(self, weights: Tensor) -> Tensor:  # (H, M, W)
        engine, (rows, read) = self._network(), self._rows(weights)

        def jacobian() -> Tensor:  # what travels between ranks is small
            by_inputs = torch.from_numpy(engine.jacobian(rows, of="inputs")[0])  # (H M, 2**n, 1 + W)
            return torch.einsum("row,o->rw", by_inputs[..., 1:], read)

        by_angles = counted_from_rank_0(engine, jacobian)
        return by_angles.view(len(weights), self.nodes, -1).to(weights.dtype).to(weights.device)

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
        return (
            f"count={self.count}, num_qubits={self.ansatz.num_qubits}, readout={self.readout!r}, "
            f"source={self.source!r}, frequencies={self.frequencies}, engine={self.engine_name}"
        )


# torch.compile runs it as it is, and compiles what is around it.
_on_network: Any = torch.compiler.disable(ScoreSeries._measure)


def _spread(coefficients: Tensor) -> Tensor:
    return (coefficients[:, 1:].square().sum(1) / 2).sqrt()
