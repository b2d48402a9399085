"""The paper's circuit (Eq. 5) as a perturbation, through SamplerQNN on any sampler; here by its series.

Shapes: B blocks, n qubits. s_k = P(x_k = 1) - P(x_k = 0) with angles a = pi * theta in every Ry.
"""

from __future__ import annotations

import copy
import logging
import time
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lightning_qsgd.distributed import counted_from_rank_0
from lightning_qsgd.optim.perturbation import Perturbation, require

if TYPE_CHECKING:
    from qiskit.primitives import BaseSamplerV2

    from lightning_qsgd.quantum import Ansatz, FourierSurrogate, LightConeSurrogate, QuantumNetwork

Rotations = Literal["aligned", "zero", "random"]
#: Options of 0.1.0, with their defaults, that belong to LiveCircuitPerturbation now.
_OF_LIVE = {"mode": "surrogate", "max_circuits": 1024, "on_failure": "stop"}
_LIVE = (
    "left out: circuits that run in each step are LiveCircuitPerturbation now (in YAML class_path: "
    "lightning_qsgd.optim.LiveCircuitPerturbation); derive a circuit of your own from that class"
)
log = logging.getLogger("lightning_qsgd")


class CircuitPerturbation(Perturbation):
    """s from a circuit of ``depth`` layers H, Ry(a + theta), Rz(phi), CNOT chain, by its series.

    The circuit runs on a grid once, at the start; its exact trigonometric series gives s in each step.
    :class:`LiveCircuitPerturbation` runs circuits in each step.

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
            when live): removes a constant part, which is a learning-rate factor and no response to the weights.
        sampler: where circuits run, a ``BaseSamplerV2``. None (default): ``ExactSampler``.
        calibration: a file from ``lightning-qsgd calibrate``, whose series is used: no circuit runs. None (default):
            the sampler runs the grid.
        shot_noise: shots of fresh multinomial noise on the series' probabilities in each step, as live circuits have.
            None (default): the series itself, whose noise is frozen.
        shot_noise_seed: of it, at least 0. Default: 0.
        mode, max_circuits, on_failure: in configurations of 0.1.0. Only their defaults are taken: others belong to
            :class:`LiveCircuitPerturbation`.

    Attributes:
        joint: whether the series must be of all outcomes, because they are drawn from it (default: with shot_noise);
            set it before ``prepare``.
        tests: results of the calibration's tests, by name.

    In a distributed run, rank 0 alone runs circuits and the others receive its numbers.

    Raises:
        ValueError: for an invalid value, or a subclass's ansatz of other sizes; in ``prepare`` if the circuit has no
            series or no aligned rotations, or the calibration is of another circuit or too old.
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
        sampler: BaseSamplerV2 | None = None,
        calibration: str | None = None,
        shot_noise: int | None = None,
        shot_noise_seed: int = 0,
        mode: str = "surrogate",
        max_circuits: int = 1024,
        on_failure: str = "stop",
    ) -> None:
        super().__init__(num_qubits)
        for name, value in (("mode", mode), ("max_circuits", max_circuits), ("on_failure", on_failure)):
            require(name, value, value == _OF_LIVE[name], _LIVE)
        require("depth", depth, depth >= 1, "at least 1")
        require("entanglement", entanglement, entanglement in ("linear", "none"), "'linear' or 'none'")
        require("rotation_seed", rotation_seed, rotation_seed >= 0, "at least 0")
        if decode_chain and entanglement == "none":
            raise ValueError("Invalid decode_chain: True; without entanglement there is no chain of CNOTs to undo")
        require("center", center, center in (None, "zero", "odd"), "None, 'zero' or 'odd'")
        require("shot_noise", shot_noise, shot_noise is None or shot_noise >= 1, "at least 1, or null for none")
        require("shot_noise_seed", shot_noise_seed, shot_noise_seed >= 0, "at least 0")
        if decode_chain is None:
            decode_chain = rotations == "aligned" and entanglement == "linear" and not self.own_ansatz
        self.entanglement: Literal["linear", "none"] = entanglement
        self.depth, self.rotations, self.rotation_seed = depth, rotations, rotation_seed
        self._check_rotations()
        self.decode_chain = decode_chain
        self.center: Literal["zero", "odd"] | None = center
        self.sampler, self.calibration, self.joint = sampler, calibration, shot_noise is not None
        self.shot_noise, self.shot_noise_seed = shot_noise, shot_noise_seed
        self._network: QuantumNetwork | None = None
        self._surrogate: FourierSurrogate | LightConeSurrogate | None = None
        self._series: FourierSurrogate | None = None  # of s: the full surrogate, projected
        self._offset: Tensor | None = None  # s(0), (1, n)
        self.tests: dict[str, float] = {}
        try:
            self._check_sizes()
        except AttributeError:  # an ansatz that reads what the subclass sets only afterwards; the network checks again
            log.debug("The circuit's sizes are checked at its first use", exc_info=True)

    # ---- the circuit

    @property
    def ansatz(self) -> Ansatz:
        """The circuit."""
        from lightning_qsgd.quantum import superposition_circuit

        return superposition_circuit(self.num_qubits, self.depth, self.entanglement)

    @property
    def own_ansatz(self) -> bool:
        """Whether this is a subclass with an ``ansatz`` of its own, and not the paper's circuit."""
        return type(self).ansatz is not CircuitPerturbation.ansatz

    @property
    def weights(self) -> np.ndarray:
        """The fixed angles, (num_weights,) radians. Of the paper's circuit: theta row by row, then phi.

        Raises:
            ValueError: if an ansatz of the subclass's own has weights, which no rotations name.
        """
        rotations, size = self.rotations, self._num_rotations
        if self.own_ansatz:
            if count := self.ansatz.num_weights:
                name = type(self).__name__
                raise ValueError(
                    f"Invalid weights: none; the circuit of {name} has {count}: set weights = np.array([...]) in {name}"
                )
            return np.zeros(0)
        if rotations == "random":
            return np.random.default_rng(self.rotation_seed).uniform(-np.pi, np.pi, size)
        if rotations == "aligned":
            from lightning_qsgd.quantum import aligned_rotations

            rotations = aligned_rotations(self.num_qubits, self.depth, self.entanglement)
        return np.zeros(size) if isinstance(rotations, str) else np.array(rotations, dtype=np.float64)

    @property
    def _num_rotations(self) -> int:
        return (2 * self.depth - 1) * self.num_qubits

    def _check_rotations(self) -> None:
        if self.own_ansatz:
            rule = f"left out: {type(self).__name__} has a circuit of its own, whose fixed angles are its weights"
            require("rotations", self.rotations, self.rotations in ("aligned", "zero"), rule)
        elif isinstance(self.rotations, str):
            valid = self.rotations in get_args(Rotations)
            require("rotations", self.rotations, valid, "aligned, zero, random or a list")
        elif (count := len(self.rotations)) != (size := self._num_rotations):
            raise ValueError(f"Invalid rotations: {count} angles; this circuit takes {size}")

    def _check_sizes(self) -> None:
        if not self.own_ansatz:
            return
        ansatz, name, n = self.ansatz, type(self).__name__, self.num_qubits
        if (ansatz.num_qubits, ansatz.num_inputs) != (n, n):
            raise ValueError(
                f"Invalid ansatz: that of {name} has {ansatz.num_qubits} qubits and {ansatz.num_inputs} inputs; with "
                f"num_qubits={n} it needs {n} of each, qubit k answering for input k. An ancilla has no coordinate: "
                "leave it out, or raise num_qubits and give it an input"
            )
        if len(self.weights) != ansatz.num_weights:
            raise ValueError(
                f"Invalid weights: {len(self.weights)}; the circuit of {name} has {ansatz.num_weights}: set weights = "
                f"np.array([...]) in {name}"
            )

    @property
    def network(self) -> QuantumNetwork:
        """The circuit as a network, built at first use."""
        if self._network is None:
            from lightning_qsgd.quantum import QuantumNetwork

            self._check_sizes()
            self._network = QuantumNetwork(self.ansatz, self.sampler)
        return self._network

    @property
    def matrix(self) -> Tensor:
        """(2**n, n) float64: outcome probabilities times this matrix are s."""
        from lightning_qsgd.quantum import modulation_matrix

        return modulation_matrix(self.num_qubits, self.decode_chain)

    def measure(self, inputs: np.ndarray, step: int | None) -> np.ndarray:
        """Run circuits now: inputs (B, n) to frequencies (B, 2**n); see ``QuantumNetwork.probabilities``."""
        with torch.device("cpu"), self.network.counting_for(self):
            return self.network.probabilities(inputs, self.weights, step=step)

    def identity(self) -> str:
        """Everything that decides s, but for noise; the same for the series and for live circuits."""
        rotations = f"random, seed {self.rotation_seed}" if self.rotations == "random" else self.rotations
        circuit = f"depth={self.depth}, entanglement={self.entanglement}, rotations={rotations}"
        if self.own_ansatz:
            from lightning_qsgd.quantum.fingerprint import of_ansatz

            circuit = f"circuit={of_ansatz(self.ansatz, self.weights)[:8]}"
        reading = f"decode_chain={self.decode_chain}, center={self.center}"
        return f"{type(self).__name__.removeprefix('Live')}(num_qubits={self.num_qubits}, {circuit}, {reading})"

    # ---- its series

    @property
    def blockwise(self) -> bool:
        """True for the series itself; shots are drawn for all blocks of a step at once."""
        return self.shot_noise is None

    @property
    def surrogate(self) -> FourierSurrogate | LightConeSurrogate | None:
        """The series, None before ``prepare`` and live; of P(x_k = 1) alone where that takes fewer circuits."""
        return self._surrogate

    @property
    def series(self) -> FourierSurrogate | None:
        """That of s, of each qubit; None before ``prepare``, live, with center, or without entanglement."""
        return self._series if self.center is None else None

    def prepare(self) -> str | None:
        """Fit the series, unless a checkpoint brought it."""
        if self._surrogate is not None:
            return None
        start, line = time.perf_counter(), f"Circuit answered by its calibration {self.calibration}"
        with torch.device("cpu"):  # whatever the default device is
            surrogate, self.tests = counted_from_rank_0(self, self._measured_series)
        self._set_surrogate(surrogate)
        if not self.calibration:
            run = f"{self.circuits:,} circuits, {self.shots:,} shots, {time.perf_counter() - start:.1f} s"
            line = f"Circuit sampled on its grid: {run}; from here on its series answers"
        log.info(line)
        return line

    def _measured_series(self) -> tuple[FourierSurrogate | LightConeSurrogate, dict[str, float]]:
        from lightning_qsgd.quantum import Calibration, FourierSurrogate, modulation_observables
        from lightning_qsgd.quantum.light_cone import fit_smallest

        if self.calibration:
            calibration = Calibration.load(self.calibration)
            calibration.check(self.ansatz, self.weights, self.calibration)
            for warning in calibration.warnings():
                log.warning(f"Calibration {self.calibration}: {warning}")
            return calibration.surrogate, calibration.results()
        with self.network.counting_for(self):
            if self.joint:
                return FourierSurrogate.fit(self.network, self.weights), {}
            names = modulation_observables(self.num_qubits, self.decode_chain)
            return fit_smallest(self.network, self.weights, names), {}

    def _set_surrogate(self, surrogate: FourierSurrogate | LightConeSurrogate) -> None:
        from lightning_qsgd.quantum import FourierSurrogate

        self._surrogate = surrogate
        if isinstance(surrogate, FourierSurrogate):
            self._series = surrogate.project(self.matrix)
        if self.center == "zero":
            zero = self._zero
            self._offset = (2 * surrogate(zero) - 1) if self._series is None else self._series(zero)

    @property
    def _zero(self) -> Tensor:  # angles of one block of weights 0
        return torch.zeros(1, self.num_qubits, dtype=torch.float64, device="cpu")

    def forward(self, angles: Tensor, *, step: int) -> Tensor:
        """s of this step, (B, n); see the class for its range with center="zero"."""
        self.prepare()
        if self.center == "odd":
            both = self._uncentred(torch.cat([angles, -angles]), step)
            return (both[: len(angles)] - both[len(angles) :]) / 2
        s = self._uncentred(angles, step)
        return s if self._offset is None else s - self._offset.to(s)

    def _uncentred(self, angles: Tensor, step: int) -> Tensor:
        """s without center, (B, n)."""
        assert self._surrogate is not None
        if self._series is None:
            return (2 * self._surrogate(angles) - 1).clamp(-1, 1)
        if self.shot_noise is None:
            return self._series(angles).clamp(-1, 1)
        rng = np.random.default_rng((self.shot_noise_seed, step + 1))
        sampled = self._surrogate.sample(angles, self.shot_noise, rng)  # type: ignore[union-attr]
        return sampled @ self.matrix.to(sampled)

    def report(self, num_points: int = 32) -> dict[str, str | float]:
        """The circuit's drawing, and how far the series is from fresh circuits at random points; too far is warned of.

        Args:
            num_points: circuits to run for it. Default: 32.

        Returns:
            circuit: the drawing; once the series is known surrogate_residual, the root mean square error of
            probabilities, surrogate_residual_expected, what shots make of it (0 where exact), and
            surrogate_clipped_mass, the mean negative probability of the series. With a calibration no circuit runs: the
            results of its tests.
        """
        drawing = {"circuit": str(self.ansatz.circuit.draw("text", fold=150))}
        with torch.device("cpu"):
            return drawing | self._residuals(num_points)

    def _residuals(self, num_points: int) -> dict[str, float]:
        from lightning_qsgd.quantum import FourierSurrogate
        from lightning_qsgd.quantum.goodness import residual_of

        surrogate, found = self._surrogate, {}
        if surrogate is None:
            return {}
        points = random_points(num_points, self.num_qubits)
        if whole := isinstance(surrogate, FourierSurrogate):  # the series is of all outcomes
            found["surrogate_clipped_mass"] = float(surrogate.clipped_mass(points).mean())
        if self.calibration:
            return found | {f"calibration_{name}": value for name, value in self.tests.items()}
        fresh = torch.from_numpy(self.measure(points.numpy(), step=None))
        if not whole:
            fresh = (1 + fresh @ self.matrix) / 2
        residual = residual_of(surrogate, points, fresh, self.network.qnn.shots or 0)
        found |= {"surrogate_residual": residual.found, "surrogate_residual_expected": residual.expected}
        if residual.too_large:
            log.warning(
                f"The circuit's series does not describe {type(self.network.sampler).__name__}: {num_points} fresh "
                f"circuits give a {residual}. Either errors depend on the angles, or the answers change from circuit "
                "to circuit (drift, a hidden state). Use LiveCircuitPerturbation, which runs the circuits themselves, "
                "or another sampler; lightning-qsgd calibrate measures again and tells the two causes apart"
            )
        return found

    def single_shot(self, angles: Tensor, rng: np.random.Generator, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Measure the circuit once for each block: E[2 b_k - 1] = s_k.

        Outcomes are drawn jointly from the series of all outcomes, clipped and renormalised. Without entanglement bits
        are independent and drawn one by one, which is the same. Live circuits run, on rank 0, and one outcome is drawn
        from the frequencies of each: exactly one of its shots.

        Args:
            angles: (B, n), float32 or float64. ``center`` plays no part.
            rng: what the draws from the probabilities are made of.
            key: numbers of at least 0 that decide the samplers' own noise where circuits run live.

        Returns:
            b, (B, n), 0 or 1, in the dtype of ``angles``; and its mean, (B, n), under the probabilities it was drawn
            from.

        Raises:
            ValueError: live, beyond ``max_circuits``.
        """
        from lightning_qsgd.quantum import LightConeSurrogate

        self.prepare()
        if not self.joint and isinstance(self._surrogate, LightConeSurrogate):
            p = self._surrogate(angles).clamp_(0, 1)
            return _uniform(angles.shape, rng, angles).lt_(p), p
        p = self._probabilities(angles, key)
        bits = ((1 + self.matrix) / 2).to(p)  # (2**n, n), of each outcome
        u = _uniform((len(p), 1), rng, p)
        outcomes = (p.cumsum(-1) <= u).sum(-1).clamp(max=p.shape[-1] - 1)  # rounding may leave the sum below u
        return bits[outcomes], p @ bits

    def _probabilities(self, angles: Tensor, key: tuple[int, ...]) -> Tensor:
        return self._surrogate.probabilities(angles)  # type: ignore[union-attr]

    # ---- copies

    def without_shots(self) -> CircuitPerturbation:
        """A copy that uses the series itself, without shot noise."""
        twin = copy.copy(self)
        twin.shot_noise, twin.on_answer = None, None
        return twin

    def simulated(self) -> CircuitPerturbation:
        """The series of the same circuit simulated exactly, whatever runs the circuit itself, with the same ``center``.

        Its ``prepare`` raises ValueError where the circuit has no series, or one of too many terms.
        """
        return SeriesOf(self, center=self.center)

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """The series, s(0), and the counts: flat, tensors and numbers."""
        state = super().state_dict() | self._series_state()
        return state if self._offset is None else state | {"offset": self._offset}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; the optimizer has compared the two identities before."""
        super().load_state_dict(state)
        self._offset = state.get("offset") if self.center == "zero" else None
        self._load_series(state)

    def _series_state(self) -> dict[str, Any]:
        if self._surrogate is None:
            return {}
        series = {f"surrogate.{name}": value for name, value in self._surrogate.state_dict().items()}
        return {"calibration": self.calibration or "none"} | series

    def _load_series(self, state: dict[str, Any]) -> None:
        prefix = "surrogate."
        surrogate = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        whole = "coefficients" in surrogate  # of all outcomes; where it must be, another one is measured anew
        if surrogate and (whole or not self.joint):
            from lightning_qsgd.quantum import FourierSurrogate, LightConeSurrogate

            self._set_surrogate((FourierSurrogate if whole else LightConeSurrogate).from_state_dict(surrogate))
            if (before := state["calibration"]) != (now := self.calibration or "none"):
                log.warning(f"The checkpoint's series goes on (calibration: {before}); calibration {now} is not read")


class SeriesOf(CircuitPerturbation):
    """The series of another perturbation's circuit, simulated exactly or from a calibration.

    Args:
        circuit: whose circuit.
        center, calibration: as in :class:`CircuitPerturbation`.
    """

    def __init__(
        self,
        circuit: CircuitPerturbation,
        center: Literal["zero", "odd"] | None = None,
        calibration: str | None = None,
    ) -> None:
        self._ansatz, self._weights = circuit.ansatz, circuit.weights
        options: dict[str, Any] = {"decode_chain": circuit.decode_chain, "center": center, "calibration": calibration}
        super().__init__(circuit.num_qubits, **options)

    @property
    def ansatz(self) -> Ansatz:
        """That of the other perturbation."""
        return self._ansatz

    @property
    def weights(self) -> np.ndarray:
        """Those of the other perturbation."""
        return self._weights


def random_points(num_points: int, num_qubits: int) -> Tensor:
    """(num_points, num_qubits) angles, float64, uniform in [-pi, pi); the same ones in each call."""
    return torch.from_numpy(np.random.default_rng(0).uniform(-np.pi, np.pi, (num_points, num_qubits)))


def _uniform(shape: tuple[int, ...], rng: np.random.Generator, like: Tensor) -> Tensor:
    dtype = np.float64 if like.dtype == torch.float64 else np.float32
    return torch.from_numpy(rng.random(shape, dtype)).to(like.device)
