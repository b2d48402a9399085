"""CircuitPerturbation: the paper's circuit (Eq. 5) as a perturbation, through SamplerQNN on any sampler.

Shapes: B blocks, n qubits. s_k = P(x_k = 1) - P(x_k = 0) with angles a = pi * theta in every Ry.
"""

from __future__ import annotations

import logging
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_qsgd.distributed import counted_from_rank_0
from lightning_qsgd.optim.circuit_series import fallback_series, measured_series, residuals
from lightning_qsgd.optim.fallback import SeriesFallback, check_finite
from lightning_qsgd.optim.fixed_angles import Rotations, check_rotations, check_sizes, fingerprint, fixed_angles
from lightning_qsgd.optim.perturbation import Perturbation, require

if TYPE_CHECKING:
    from qiskit.primitives import BaseSamplerV2

    from lightning_qsgd.quantum import Ansatz, FourierSurrogate, LightConeSurrogate, QuantumNetwork

log = logging.getLogger("lightning_qsgd")


class CircuitPerturbation(Perturbation):
    """s from a circuit of ``depth`` layers H, Ry(a + theta), Rz(phi), CNOT chain.

    A subclass with an ``ansatz`` of its own is another circuit: of ``num_qubits`` qubits, with one input for each.
    Fixed angles are ``weights`` (default: none), depth, entanglement and rotations mean nothing, and no chain of CNOTs
    is decoded unless ``decode_chain=True``.

    Args:
        num_qubits: coordinates per block and circuit. Default: 4.
        depth: layers. Default: 2.
        entanglement: "linear" (CNOT between neighbours) or "none". Default: "linear".
        rotations: the fixed angles (theta, phi) in the circuit:

            - "aligned" (default): s(0) = 0 with unit slope, so that the circuit is sin(pi theta) plus corrections;
            - "zero": the paper's letter. At depth 2 that is s = -1 + O(a^2): a plain cut of the learning rate;
            - "random": uniform in [-pi, pi), from ``rotation_seed``;
            - a list of (2 * depth - 1) * num_qubits radians: theta row by row, then phi.
        rotation_seed: of "random", at least 0. Default: 0.
        decode_chain: read x_k = y_k XOR y_(k-1), which undoes the last chain of CNOTs classically (needs
            entanglement="linear"). None (default): with "aligned" only.
        center: None (default), "zero" (s(a) - s(0), range [-2, 2]) or "odd" ((s(a) - s(-a)) / 2, twice the circuits
            when live): removes a constant part, which is a learning-rate factor and no answer to the weights.
        mode: "surrogate" (default): the circuit runs on a grid once, at the start, and its exact trigonometric series
            answers afterwards; "live": one circuit per block in each step.
        on_failure: of live circuits, once some have run. "stop" (default): the error, before anything of the step is
            applied; "series": the exact series of the perfect circuit, or that of ``calibration``, answers the step and
            the next 99, then circuits are tried again. It is warned of, counted, and remembered by checkpoints.
        sampler: where circuits run, a ``BaseSamplerV2``. None (default): ``ExactSampler``.
        max_circuits: most circuits that a live step may ask for. Default: 1024.
        calibration: a file from ``lightning-qsgd calibrate``, whose series answers: no circuit runs. None (default):
            the sampler runs the grid. Surrogate mode, or on_failure="series".
        shot_noise: shots of fresh multinomial noise on the series' probabilities in each step, as live circuits have.
            None (default): the series itself, whose noise is frozen. Surrogate mode only.
        shot_noise_seed: of it, at least 0. Default: 0.

    Attributes:
        joint: whether the series must be of all outcomes, because they are drawn from it (default: with shot_noise);
            set it before ``prepare``.
        tests: results of the calibration's tests, by name.

    In a distributed run, rank 0 alone runs circuits and the others receive its numbers.

    Raises:
        ValueError: for an invalid value, or a subclass's ansatz of other sizes; in ``prepare`` if the circuit has no
            series or no aligned rotations, or the calibration is of another circuit or too old; in ``forward`` beyond
            ``max_circuits``.
        FileNotFoundError: in ``prepare``, if there is no such calibration.
    """

    def __init__(
        self,
        num_qubits: int = 4,
        depth: int = 2,
        entanglement: Literal["linear", "none"] = "linear",
        rotations: Rotations | list[float] = "aligned",
        rotation_seed: int = 0,
        decode_chain: bool | None = None,
        center: Literal["zero", "odd"] | None = None,
        mode: Literal["surrogate", "live"] = "surrogate",
        sampler: BaseSamplerV2 | None = None,
        max_circuits: int = 1024,
        calibration: str | None = None,
        shot_noise: int | None = None,
        shot_noise_seed: int = 0,
        on_failure: Literal["stop", "series"] = "stop",
    ) -> None:
        super().__init__(num_qubits)
        require("depth", depth, depth >= 1, "at least 1")
        require("entanglement", entanglement, entanglement in ("linear", "none"), "'linear' or 'none'")
        require("rotation_seed", rotation_seed, rotation_seed >= 0, "at least 0")
        if decode_chain and entanglement == "none":
            raise ValueError("Invalid decode_chain: True; without entanglement there is no chain of CNOTs to undo")
        require("center", center, center in (None, "zero", "odd"), "None, 'zero' or 'odd'")
        require("mode", mode, mode in ("surrogate", "live"), "'surrogate' or 'live'")
        require("max_circuits", max_circuits, max_circuits >= 1, "at least 1")
        require("on_failure", on_failure, on_failure in ("stop", "series"), "'stop' or 'series'")
        require("on_failure", on_failure, on_failure == "stop" or mode == "live", "'stop' unless mode='live'")
        valid = calibration is None or mode == "surrogate" or on_failure == "series"
        require("calibration", calibration, valid, "null with mode='live', unless on_failure='series'")
        valid = shot_noise is None or (mode == "surrogate" and shot_noise >= 1)
        require("shot_noise", shot_noise, valid, "at least 1, or null for none; null with mode='live'")
        require("shot_noise_seed", shot_noise_seed, shot_noise_seed >= 0, "at least 0")
        if decode_chain is None:
            decode_chain = rotations == "aligned" and entanglement == "linear" and not self.own_ansatz
        self.entanglement: Literal["linear", "none"] = entanglement
        self.depth, self.rotations, self.rotation_seed = depth, rotations, rotation_seed
        check_rotations(self)
        self.decode_chain, self.center, self.mode, self.max_circuits = decode_chain, center, mode, max_circuits
        self.sampler, self.calibration, self.joint = sampler, calibration, shot_noise is not None
        self.on_failure: Literal["stop", "series"] = on_failure
        self.shot_noise, self.shot_noise_seed = shot_noise, shot_noise_seed
        self._network: QuantumNetwork | None = None
        self._surrogate: FourierSurrogate | LightConeSurrogate | None = None
        self._modulation: FourierSurrogate | None = None  # of s: the full surrogate, projected
        self._offset: Tensor | None = None  # s(0), (1, n)
        self.tests: dict[str, float] = {}
        try:
            check_sizes(self)
        except AttributeError:  # an ansatz that reads what the subclass sets only afterwards; the network checks again
            log.debug("The circuit's sizes are checked at its first use", exc_info=True)

    @cached_property
    def _fallback(self) -> SeriesFallback | None:
        return SeriesFallback(fallback_series(self)) if self.on_failure == "series" else None

    def identity(self) -> str:
        """Everything that decides what the circuit answers, but for noise."""
        rotations = f"random, seed {self.rotation_seed}" if self.rotations == "random" else self.rotations
        circuit = f"depth={self.depth}, entanglement={self.entanglement}, rotations={rotations}"
        if self.own_ansatz:
            circuit = f"circuit={fingerprint(self)}"
        reading = f"decode_chain={self.decode_chain}, center={self.center}"
        return f"{type(self).__name__}(num_qubits={self.num_qubits}, {circuit}, {reading})"

    @property
    def own_ansatz(self) -> bool:
        """Whether this is a subclass with an ``ansatz`` of its own, and not the paper's circuit."""
        return type(self).ansatz is not CircuitPerturbation.ansatz

    @property
    def blockwise(self) -> bool:
        """True for the series itself; shots are drawn, and circuits run, for all blocks of a step at once."""
        return self.mode == "surrogate" and self.shot_noise is None

    @property
    def ansatz(self) -> Ansatz:
        """The circuit."""
        from lightning_qsgd.quantum import superposition_circuit

        return superposition_circuit(self.num_qubits, self.depth, self.entanglement)

    @property
    def network(self) -> QuantumNetwork:
        """The circuit as a network, built at first use."""
        if self._network is None:
            from lightning_qsgd.quantum import QuantumNetwork

            check_sizes(self)
            self._network = QuantumNetwork(self.ansatz, self.sampler)
        return self._network

    @property
    def surrogate(self) -> FourierSurrogate | LightConeSurrogate | None:
        """The series, None before ``prepare`` and in live mode; of P(x_k = 1) alone where that takes fewer circuits."""
        return self._surrogate

    @property
    def series(self) -> FourierSurrogate | None:
        """That of s, of each qubit; None before ``prepare``, in live mode, with center, or without entanglement."""
        return self._modulation if self.center is None else None

    @property
    def weights(self) -> np.ndarray:
        """The fixed angles, (num_weights,) radians. Of the paper's circuit: theta row by row, then phi."""
        return fixed_angles(self)

    def prepare(self) -> str | None:
        """Fit the surrogate, and measure s(0) where it is subtracted, unless a checkpoint brought them."""
        if self._fallback is not None:
            self._fallback.series.prepare()
        if self.mode == "surrogate" and self._surrogate is None:
            return self._fit()
        if self.center == "zero" and self._offset is None:
            self._offset = self._evaluate(self._zero, step=-1)
        return None

    def report(self, num_points: int = 32) -> dict[str, str | float]:
        """The circuit's drawing, and how far the series is from fresh circuits at random points; too far is warned of.

        Args:
            num_points: circuits to run for it. Default: 32.

        Returns:
            circuit: the drawing; in surrogate mode surrogate_residual, the root mean square error of probabilities,
            surrogate_residual_expected, what shots make of it (0 where exact), and surrogate_clipped_mass, the mean
            negative probability of the series. With a calibration no circuit runs: the results of its tests.
        """
        drawing = {"circuit": str(self.ansatz.circuit.draw("text", fold=150))}
        with torch.device("cpu"):
            return drawing | residuals(self, num_points)

    def forward(self, angles: Tensor, *, step: int) -> Tensor:
        """s of this step, (B, n); see the class for its range with center="zero"."""
        self.prepare()
        if self.center == "odd":
            both = self._evaluate(torch.cat([angles, -angles]), step)
            return (both[: len(angles)] - both[len(angles) :]) / 2
        s = self._evaluate(angles, step)
        return s if self._offset is None else s - self._offset.to(s)

    def _evaluate(self, angles: Tensor, step: int) -> Tensor:
        if self.mode == "live":
            return self._run(angles, step)
        if self._modulation is None:
            assert self._surrogate is not None
            return (2 * self._surrogate(angles) - 1).clamp(-1, 1)
        if self.shot_noise is None:
            return self._modulation(angles).clamp(-1, 1)
        rng = np.random.default_rng((self.shot_noise_seed, step + 1))
        sampled = self._surrogate.sample(angles, self.shot_noise, rng)  # type: ignore[union-attr]
        return sampled @ self.matrix.to(sampled)

    def _run(self, angles: Tensor, step: int) -> Tensor:
        if len(angles) > self.max_circuits:
            raise ValueError(
                f"A live step would run {len(angles)} circuits, more than max_circuits={self.max_circuits}; "
                "use mode='surrogate', scope='first_of_tensor' or 'first_of_model', or raise max_circuits"
            )
        inputs = angles.cpu()
        check_finite(inputs)

        def run() -> Tensor:
            return torch.from_numpy(self.measure(inputs.numpy(), step)) @ self.matrix

        if self._fallback is None:
            return counted_from_rank_0(self, run).to(angles)
        s = self._fallback.answer(self, run, inputs, step)
        self.fallback_steps = self._fallback.steps
        return s.to(angles)

    def _fit(self) -> str:
        start, line = time.perf_counter(), f"Circuit answered by its calibration {self.calibration}"
        with torch.device("cpu"):  # whatever the default device is
            surrogate, self.tests = counted_from_rank_0(self, lambda: measured_series(self))
        self._set_surrogate(surrogate)
        if not self.calibration:
            run = f"{self.circuits:,} circuits, {self.shots:,} shots, {time.perf_counter() - start:.1f} s"
            line = f"Circuit sampled on its grid: {run}; from here on its series answers"
        log.info(line)
        return line

    def _set_surrogate(self, surrogate: FourierSurrogate | LightConeSurrogate) -> None:
        from lightning_qsgd.quantum import FourierSurrogate

        self._surrogate = surrogate
        if isinstance(surrogate, FourierSurrogate):
            self._modulation = surrogate.project(self.matrix)
        if self.center == "zero":
            zero = self._zero
            self._offset = (2 * surrogate(zero) - 1) if self._modulation is None else self._modulation(zero)

    @property
    def _zero(self) -> Tensor:  # angles of one block of weights 0
        return torch.zeros(1, self.num_qubits, dtype=torch.float64, device="cpu")

    @property
    def matrix(self) -> Tensor:
        """(2**n, n) float64: outcome probabilities times this matrix are s."""
        from lightning_qsgd.quantum import modulation_matrix

        return modulation_matrix(self.num_qubits, self.decode_chain)

    def measure(self, inputs: np.ndarray, step: int | None) -> np.ndarray:
        """Run circuits now: inputs (B, n) to frequencies (B, 2**n); see ``QuantumNetwork.probabilities``."""
        with torch.device("cpu"), self.network.counting_for(self):
            return self.network.probabilities(inputs, self.weights, step=step)

    def state_dict(self) -> dict[str, Any]:
        """The surrogate, s(0), and the counts: flat, tensors and numbers."""
        state = super().state_dict()
        if self._surrogate is not None:
            state["calibration"] = self.calibration or "none"
            state |= {f"surrogate.{name}": value for name, value in self._surrogate.state_dict().items()}
        state |= {} if self._fallback is None else self._fallback.state_dict()
        return state if self._offset is None else state | {"offset": self._offset}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; the optimizer has compared the two identities before."""
        super().load_state_dict(state)
        if self._fallback is not None:
            self._fallback.load_state_dict(state)
            self.fallback_steps = self._fallback.steps
        self._offset = state.get("offset") if self.center == "zero" else None
        prefix = "surrogate."
        surrogate = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        whole = "coefficients" in surrogate  # of all outcomes; where it must be, another one is measured anew
        if surrogate and self.mode == "surrogate" and (whole or not self.joint):
            from lightning_qsgd.quantum import FourierSurrogate, LightConeSurrogate

            self._set_surrogate((FourierSurrogate if whole else LightConeSurrogate).from_state_dict(surrogate))
            if (before := state["calibration"]) != (now := self.calibration or "none"):
                log.warning(f"The checkpoint's series goes on (calibration: {before}); calibration {now} is not read")
