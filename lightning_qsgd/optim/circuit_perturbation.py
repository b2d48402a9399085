"""The paper's circuit (Eq. 5) as a perturbation, evaluated by its series; SamplerQNN runs it on any sampler.

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
#: Options of 0.1.0 that now belong to LiveCircuitPerturbation, with their defaults.
_OF_LIVE = {"mode": "surrogate", "max_circuits": 1024, "on_failure": "stop"}
_LIVE = (
    "left out: circuits that run in each step are LiveCircuitPerturbation now (in YAML class_path: "
    "lightning_qsgd.optim.LiveCircuitPerturbation); derive a circuit of your own from that class"
)
log = logging.getLogger("lightning_qsgd")


class CircuitPerturbation(Perturbation):
    """s from the series of a circuit of ``depth`` layers H, Ry(a + theta), Rz(phi), CNOT chain.

    The circuit runs once, at the start, on a grid; its exact trigonometric series then gives s in each step.
    :class:`LiveCircuitPerturbation` runs circuits in each step instead.

    For another circuit, write a subclass with an ``ansatz`` of ``num_qubits`` qubits and one input for each. Its fixed
    angles are ``weights`` (default: none). Depth, entanglement and rotations are then unused, and no chain of CNOTs is
    decoded unless ``decode_chain=True``.

    In a distributed run rank 0 runs all circuits, and the other ranks receive its results.

    Args:
        num_qubits: coordinates per block and circuit. Default: 4.
        depth: number of layers, at least 1. Default: 2.
        entanglement: "linear" (CNOT between neighbours) or "none". Default: "linear".
        rotations: the fixed angles (theta, phi) in the circuit:

            - "aligned" (default): s(0) = 0 with unit slope, so that s is sin(pi theta) plus corrections;
            - "zero": the paper's choice. At depth 2 it gives s = -1 + O(a^2), which only lowers the learning rate;
            - "random": uniform in [-pi, pi), from ``rotation_seed``;
            - a list of (2 * depth - 1) * num_qubits radians: theta row by row, then phi.
        rotation_seed: seed of "random", at least 0. Default: 0.
        decode_chain: whether to read x_k = y_k XOR y_(k-1), which classically undoes the last chain of CNOTs. Requires
            entanglement="linear". Default: None, True for "aligned" only.
        center: removes the constant part of s, which is a learning-rate factor and not a response to the weights.
            "zero": s(a) - s(0), in [-2, 2]. "odd": (s(a) - s(-a)) / 2, which runs twice as many live circuits.
            Default: None, s itself.
        sampler: the ``BaseSamplerV2`` that runs circuits. Default: ``ExactSampler``.
        calibration: a file from ``lightning-qsgd calibrate``. Its series is used, and no circuit runs. Default: None,
            the sampler runs the grid.
        shot_noise: number of shots. In each step, multinomial noise is drawn on the series' probabilities, as live
            circuits have it. Default: None, the series itself, whose noise is frozen.
        shot_noise_seed: seed of this noise, at least 0. Default: 0.
        mode, max_circuits, on_failure: for configurations of 0.1.0. Other values than the defaults raise an error,
            because they belong to :class:`LiveCircuitPerturbation`.

    Attributes:
        joint: whether the series must be of all outcomes, so that outcomes can be drawn from it. Default: True with
            shot_noise. Set it before ``prepare``.
        tests: results of the calibration's tests by name.

    Raises:
        ValueError: for an invalid value, or if a subclass's ansatz has other sizes; in ``prepare`` if the circuit has
            no series or no aligned rotations, or if the calibration is of another circuit or too old.
        FileNotFoundError: in ``prepare``, if the calibration does not exist.
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
        except AttributeError:  # the ansatz reads attributes that the subclass sets later; the network checks again
            log.debug("The circuit's sizes are checked at its first use", exc_info=True)

    # ---- the circuit

    @property
    def ansatz(self) -> Ansatz:
        """The circuit."""
        from lightning_qsgd.quantum import superposition_circuit

        return superposition_circuit(self.num_qubits, self.depth, self.entanglement)

    @property
    def own_ansatz(self) -> bool:
        """Whether a subclass has replaced ``ansatz``, the paper's circuit."""
        return type(self).ansatz is not CircuitPerturbation.ansatz

    @property
    def weights(self) -> np.ndarray:
        """The fixed angles, (num_weights,) radians. For the paper's circuit: theta row by row, then phi.

        Raises:
            ValueError: if a subclass's ansatz has weights, which the subclass must then define.
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
        """Run circuits: inputs (B, n) to frequencies (B, 2**n); see ``QuantumNetwork.probabilities``."""
        with torch.device("cpu"), self.network.counting_for(self):
            return self.network.probabilities(inputs, self.weights, step=step)

    def identity(self) -> str:
        """The settings that determine s, except noise; the same for the series and for live circuits."""
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
        """True for the series itself; shot noise is drawn for all blocks of a step at once."""
        return self.shot_noise is None

    @property
    def surrogate(self) -> FourierSurrogate | LightConeSurrogate | None:
        """The series of all outcomes, or of P(x_k = 1) if that takes fewer circuits; None before ``prepare``."""
        return self._surrogate

    @property
    def series(self) -> FourierSurrogate | None:
        """The series of s for each qubit; None before ``prepare``, with center, or for P(x_k = 1) alone."""
        return self._series if self.center is None else None

    def prepare(self) -> str | None:
        """Fit the series, unless a checkpoint had it."""
        if self._surrogate is not None:
            return None
        start, line = time.perf_counter(), f"The circuit's series is that of its calibration {self.calibration}"
        with torch.device("cpu"):  # not the default device
            surrogate, self.tests = counted_from_rank_0(self, self._measured_series)
        self._set_surrogate(surrogate)
        if not self.calibration:
            run = f"{self.circuits:,} circuits, {self.shots:,} shots, {time.perf_counter() - start:.1f} s"
            line = f"Circuit sampled on its grid: {run}; its series is used from here on"
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
        """The circuit's drawing, and the distance of the series from fresh circuits at random points.

        A distance that shots do not explain raises a warning. With a calibration no circuit runs.

        Args:
            num_points: number of circuits to run. Default: 32.

        Returns:
            circuit: the drawing. Once the series is fitted, surrogate_residual: root mean square error of its
            probabilities; surrogate_residual_expected: the error that shots cause, 0 if the sampler is exact;
            surrogate_clipped_mass: mean negative probability of the series. With a calibration, the results of its
            tests.
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
                f"circuits give a {residual}. Either errors depend on the angles, or the results change from circuit "
                "to circuit (drift, a hidden state). Use LiveCircuitPerturbation, which runs the circuits themselves, "
                "or another sampler; lightning-qsgd calibrate measures again and tells the two causes apart"
            )
        return found

    def single_shot(self, angles: Tensor, rng: np.random.Generator, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Measure the circuit once for each block, so that E[2 b_k - 1] = s_k.

        Outcomes are drawn jointly from the series of all outcomes, clipped and renormalized. Without entanglement the
        bits are independent and drawn one by one. Live circuits run on rank 0, and one outcome is drawn from the
        frequencies of each, which is one of its shots.

        Args:
            angles: (B, n), float32 or float64. ``center`` is not applied.
            rng: generator of the draws.
            key: numbers of at least 0 that seed the sampler's noise if circuits run live.

        Returns:
            b, (B, n), 0 or 1, in the dtype of ``angles``; and its mean, (B, n), under the probabilities of the draw.

        Raises:
            ValueError: if live circuits would exceed ``max_circuits``.
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
        """The series of the same circuit from exact simulation instead of the sampler, with the same ``center``.

        Its ``prepare`` raises ValueError if the circuit has no series, or one with too many terms.
        """
        return SeriesOf(self, center=self.center)

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """The series, s(0) and the counts: tensors and numbers by name."""
        state = super().state_dict() | self._series_state()
        return state if self._offset is None else state | {"offset": self._offset}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state; the optimizer has compared the identities before."""
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
        whole = "coefficients" in surrogate  # of all outcomes; if it must be and is not, it is measured again
        if surrogate and (whole or not self.joint):
            from lightning_qsgd.quantum import FourierSurrogate, LightConeSurrogate

            self._set_surrogate((FourierSurrogate if whole else LightConeSurrogate).from_state_dict(surrogate))
            if (before := state["calibration"]) != (now := self.calibration or "none"):
                log.warning(f"The checkpoint's series is used (calibration: {before}); calibration {now} is not read")


class SeriesOf(CircuitPerturbation):
    """The series of another perturbation's circuit, simulated exactly or from a calibration.

    Args:
        circuit: the other perturbation.
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
        """The circuit of the other perturbation."""
        return self._ansatz

    @property
    def weights(self) -> np.ndarray:
        """The fixed angles of the other perturbation."""
        return self._weights


def random_points(num_points: int, num_qubits: int) -> Tensor:
    """Angles, (num_points, num_qubits) float64, uniform in [-pi, pi) and the same in each call."""
    return torch.from_numpy(np.random.default_rng(0).uniform(-np.pi, np.pi, (num_points, num_qubits)))


def _uniform(shape: tuple[int, ...], rng: np.random.Generator, like: Tensor) -> Tensor:
    dtype = np.float64 if like.dtype == torch.float64 else np.float32
    return torch.from_numpy(rng.random(shape, dtype)).to(like.device)
