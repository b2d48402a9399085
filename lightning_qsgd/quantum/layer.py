"""QuantumLayer: a torch module with a circuit and its trainable weights.

Shapes: B rows, n qubits, I inputs, W weights, O outputs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from qiskit.primitives import BaseSamplerV2
from torch import Tensor, nn

from lightning_qsgd.quantum.angles import check_inputs
from lightning_qsgd.quantum.circuits import Ansatz
from lightning_qsgd.quantum.fingerprint import of_ansatz
from lightning_qsgd.quantum.library import BLOCKS, named_circuit
from lightning_qsgd.quantum.network import QuantumNetwork
from lightning_qsgd.quantum.observables import Measurement, Observable
from lightning_qsgd.quantum.samplers import with_noise_position
from lightning_qsgd.quantum.simulator import CircuitSimulator, Engine, fastest_engine
from lightning_qsgd.quantum.trajectories import NoisySimulator, PauliNoise

Output = Literal["probabilities", "expectations"]
Initial = Literal["uniform", "normal", "small", "identity"]


class CircuitModule(nn.Module):
    """A module with a circuit. Its state_dict has a fingerprint of the circuit, which must match when it is loaded.

    Attributes:
        ansatz: the circuit.
        engine: where the circuit runs, a :class:`CircuitSimulator` or a :class:`QuantumNetwork`.
    """

    ansatz: Ansatz
    engine: CircuitSimulator | QuantumNetwork

    def remember(self, ansatz: Ansatz, what: str = "") -> None:
        """Set ``ansatz``, and compute the fingerprint from it and from ``what``, any further text that must match."""
        self.ansatz = ansatz
        digest = of_ansatz(ansatz) if not what else hashlib.sha256(f"{of_ansatz(ansatz)} {what}".encode()).hexdigest()
        self._circuit_id = int(digest[:15], 16)  # 60 bits

    def get_extra_state(self) -> Tensor:
        """The fingerprint, int64; if the sampler has a noise position, (3,): the fingerprint and this position.

        It is not a buffer, because weight averaging also averages buffers.
        """
        sampler = self._seeded_sampler
        return torch.tensor(self._circuit_id if sampler is None else [self._circuit_id, *sampler.noise_position])

    def set_extra_state(self, state: Tensor) -> None:
        """Continue the sampler's sequence of noise, if both samplers have one. The fingerprint is compared before."""
        if state.numel() == 3 and (sampler := self._seeded_sampler) is not None:
            _, step, call = state.tolist()
            sampler.noise_position = (step, call)

    def of_other_circuit(self, state: Tensor) -> str:
        """An error if an extra state is that of another circuit; "" if it is this one's."""
        if int(state.flatten()[0]) == self._circuit_id:
            return ""
        return f"the weights belong to another circuit, readout or phi than this one's: {self.extra_repr()}"

    @property
    def measured(self) -> list[Ansatz]:
        """The circuit, once with each change of basis at its end that its outputs need."""
        return [self.ansatz]

    @property
    def _seeded_sampler(self) -> Any:
        return None if isinstance(self.engine, CircuitSimulator) else with_noise_position(self.engine.sampler)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # type: ignore
        before = state_dict.pop(f"{prefix}circuit_id", None)  # the name in earlier versions
        if before is not None:
            state_dict[f"{prefix}_extra_state"] = before
        saved = state_dict.get(f"{prefix}_extra_state")
        if saved is not None and not isinstance(saved, Tensor):
            del state_dict[f"{prefix}_extra_state"]  # a placeholder of torch's set_model_state_dict; see CircuitEngines
        elif saved is not None and (error := self.of_other_circuit(saved)):
            args[-1].append(f"{prefix[:-1] or type(self).__name__}: {error}")
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def engine_name(self) -> str:
        """The engine's name: "simulator", "NoisySimulator", or the class of the sampler."""
        if isinstance(self.engine, CircuitSimulator):
            return type(self.engine).__name__ if isinstance(self.engine, NoisySimulator) else "simulator"
        return type(self.engine.sampler).__name__

    @property
    def circuits(self) -> int:
        """Circuits run so far on the sampler."""
        return getattr(self.engine, "circuits", 0)

    @property
    def shots(self) -> int:
        """Shots run so far on the sampler."""
        return getattr(self.engine, "shots", 0)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds spent so far on the sampler."""
        return getattr(self.engine, "seconds", 0.0)


class QuantumLayer(CircuitModule):
    """A circuit as a layer: maps angles (..., num_inputs) to probabilities (..., 2**n) or expectations (..., O).

    ``QuantumLayer("ring", circuit={"num_qubits": 6})`` takes a circuit of the library by its name; an :class:`Ansatz`
    is any circuit. The circuit runs outside autocast, in float32, or in float64 if inputs or weights are; the output
    has the dtype of the inputs.

    The state_dict holds the weights and a fingerprint of the circuit. It loads into a layer with another engine, but
    not into one with another circuit of the same size. For samplers with a ``noise_position``, such as
    :class:`AerSampler`, it also holds the position in the sequence of shot noise, so that a resumed run draws the same
    shots as an uninterrupted one.

    Args:
        ansatz: the circuit, or the name of one; see :func:`named_circuit`.
        output: "probabilities" or "expectations". Default: "probabilities".
        engine: where the circuit runs. "simulator" (or None) is a :class:`CircuitSimulator`: exact, with gradients of
            any order; "native" and "torch" name its engine, which otherwise is the native one where numba is installed.
            A sampler, or a :class:`QuantumNetwork`, runs it with first derivatives by parameter shifts, in one job for
            all rows (an :class:`SPSANetwork`: by estimates from few circuits). Default: "simulator".
        observables: only for "expectations"; one output for each. A name such as "Z0", "X0Y1" or "I"; a weighted sum
            such as ``{"Z0Z1": 0.5, "X0": 0.5}``; or Qiskit's ``SparsePauliOp``. Products of Paulis that agree on the
            qubits that they share are read from one circuit, and each circuit gets all shots of the sampler: k groups
            of such products cost k circuits per row. Default: Z of each qubit.
        train_coefficients: whether the coefficients of the observables are trained. Default: False.
        circuit: options of a circuit that is named, such as ``{"num_qubits": 6, "depth": 2}``. Default: its defaults.
        initial: initial weights. "uniform": in [-pi, pi); "normal": with mean 0 and standard deviation 1; "small": with
            standard deviation 0.01; "identity": uniform, but so that each layer of a circuit with ``identity_blocks``
            and its inverse cancel; all drawn from torch's global generator. Or (W,) numbers; or a file of them, .npy or
            .pt. Default: "uniform".
        noise: errors on the simulator, a :class:`PauliNoise` or its arguments, such as ``{"depolarizing": 0.01}``: in
            each call, in training and in evaluation, new errors are drawn for each row from torch's global generator.
            The mean over draws is the noisy circuit's. Default: none.

    Attributes:
        weights: (W,) radians; (0,) if the ansatz has none.
        observables: names of the outputs, if they are expectations.
        coefficients: (K,) of the terms of each observable, in their order, if they are trained; otherwise None.
        circuits: circuits run so far on the sampler, including those for gradients; 0 on the simulator.
        shots: shots run so far on the sampler.
        seconds: wall-clock seconds spent so far on the sampler.

    Raises:
        ValueError: if an option is invalid, or the network has another ansatz.

    Example:
        >>> layer = QuantumLayer("ring", "expectations", circuit={"num_qubits": 3, "depth": 1})
        >>> layer(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
    """

    coefficients: nn.Parameter | None

    def __init__(
        self,
        ansatz: Ansatz | str,
        output: Output = "probabilities",
        engine: Literal["simulator", "native", "torch"] | QuantumNetwork | BaseSamplerV2 | None = "simulator",
        *,
        observables: Observable | Sequence[Observable] | None = None,
        train_coefficients: bool = False,
        circuit: dict[str, Any] | None = None,
        initial: Initial | str | Path | Sequence[float] | Tensor = "uniform",
        noise: PauliNoise | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(ansatz, str):
            ansatz = named_circuit(ansatz, **(circuit or {}))
        elif circuit is not None:
            raise ValueError("Invalid circuit: its options need a circuit by name, such as QuantumLayer('ring', ...)")
        if not isinstance(ansatz, Ansatz):
            raise ValueError(
                f"Invalid ansatz: a {type(ansatz).__name__}; wrap the circuit: QuantumLayer(Ansatz(circuit, inputs, "
                "weights)), where inputs and weights are its parameters that take data and those that are trained"
            )
        if output not in get_args(Output):
            raise ValueError(f"Invalid output: {output!r}; it must be 'probabilities' or 'expectations'")
        if (observables is not None or train_coefficients) and output == "probabilities":
            raise ValueError("Invalid observables: they need output='expectations', and so do their coefficients")
        self.output: Output = output
        self.engine = _engine(ansatz, engine, None if noise is None else PauliNoise.of(noise))
        self.remember(ansatz)
        self.observables: tuple[str, ...] = ()
        self._measurement: Measurement | None = None
        self._engines: list[CircuitSimulator | QuantumNetwork] = [self.engine]
        if output == "expectations":
            default = [f"Z{q}" for q in range(ansatz.num_qubits)]
            measurement = Measurement(default if observables is None else observables, ansatz.num_qubits)
            self._measurement, self.observables = measurement, measurement.names
            self._engines = [_measuring(self.engine, basis.paulis) for basis in measurement.bases]
        self.initial = _initial(initial, ansatz)
        self.weights = nn.Parameter(torch.empty(ansatz.num_weights), requires_grad=ansatz.num_weights > 0)
        count = len(self._measurement.coefficients) if self._measurement and train_coefficients else None
        self.register_parameter("coefficients", None if count is None else nn.Parameter(torch.empty(count)))
        self.reset_parameters()

    @property
    def measured(self) -> list[Ansatz]:
        """The circuit, once with each change of basis at its end that its outputs need."""
        bases = [] if self._measurement is None else self._measurement.bases
        return [self.ansatz.measuring(basis.paulis) for basis in bases] or [self.ansatz]

    @property
    def num_outputs(self) -> int:
        """O: 2**n for probabilities, or the number of observables."""
        return len(self.observables) if self.output == "expectations" else 2**self.ansatz.num_qubits

    def like(self, ansatz: Ansatz, weights: Tensor, *, exact: bool = False) -> QuantumLayer:
        """A layer of another circuit of as many qubits, with the same outputs, dtype and device.

        Args:
            ansatz: the circuit.
            weights: its weights (W,), which are copied.
            exact: whether it runs on the exact simulator, rather than on an engine like this layer's, with its noise.
                Default: False.
        """
        engine, noise = self.engine, getattr(self.engine, "noise", None)
        if isinstance(engine, CircuitSimulator):
            made = QuantumLayer(ansatz, self.output, engine.engine, noise=None if exact else noise)
        elif exact:
            made = QuantumLayer(ansatz, self.output)
        else:
            made = QuantumLayer(ansatz, self.output, engine.for_circuit(ansatz))
        if self._measurement is not None:
            made._measurement, made.observables = self._measurement, self.observables
            made._engines = [_measuring(made.engine, basis.paulis) for basis in self._measurement.bases]
        made.weights = nn.Parameter(weights.detach().clone(), self.weights.requires_grad and ansatz.num_weights > 0)
        if self.coefficients is not None:
            made.coefficients = nn.Parameter(self.coefficients.detach().clone(), self.coefficients.requires_grad)
        made.initial = made.weights.detach().clone()
        return made.train(self.training)

    def reset_parameters(self) -> None:
        """Set the initial weights again, or draw new ones; set trained coefficients to those given."""
        if self.coefficients is not None and self._measurement is not None:
            self.coefficients.data.copy_(self._measurement.coefficients)
        if isinstance(self.initial, Tensor):
            self.weights.data.copy_(self.initial)
        elif self.initial in ("uniform", "identity"):
            nn.init.uniform_(self.weights, -torch.pi, torch.pi)
            if self.initial == "identity":
                for block in self.weights.data.split([2 * count for count in _blocks(self.ansatz)]):
                    block[len(block) // 2 :] = block[: len(block) // 2]
        else:
            nn.init.normal_(self.weights, std=1.0 if self.initial == "normal" else 0.01)

    def forward(
        self, inputs: Tensor | None = None, weights: Tensor | None = None, state: Tensor | None = None
    ) -> Tensor:
        """Run the circuit once per row.

        Args:
            inputs: (..., num_inputs), floating point, radians. Default: None, only for an ansatz without inputs: one
                row, or as many as ``weights`` or ``state`` has.
            weights: (W,), or (..., W) with weights of each row, in place of the layer's own, such as another network's
                output. Default: the layer's own.
            state: (..., 2**n) amplitudes that the circuit starts from, real or complex, of any norm but 0; only on the
                simulator. Default: 0 on all qubits.

        Returns:
            (..., 2**n) probabilities, or (..., O) expectations, in the dtype and on the device of ``inputs`` (without
            inputs, of the weights).

        Raises:
            ValueError: if a shape is wrong, or a dtype is not floating point.
        """
        given = self.weights if weights is None else weights
        if inputs is None:
            rows_of = given.shape[:-1] if given.ndim > 1 else (1,) if state is None else state.shape[:-1]
            inputs = given.new_zeros(*rows_of, 0) if self.ansatz.num_inputs == 0 else given.new_zeros(0)
        check_inputs(inputs, self.ansatz.num_inputs, rows_only=False)
        leading, count = inputs.shape[:-1], self.ansatz.num_weights
        if not given.is_floating_point() or given.shape not in ((count,), (*leading, count)):
            raise ValueError(
                f"Invalid weights: {given.dtype} of shape {tuple(given.shape)}; they must be floating point, of shape "
                f"({count},) or {(*leading, count)}"
            )
        double = torch.float64 in (inputs.dtype, given.dtype)
        dtype = torch.float64 if double else torch.float32
        rows = inputs.reshape(math.prod(leading), self.ansatz.num_inputs).to(dtype)
        given = given.to(dtype) if given.ndim == 1 else given.reshape(len(rows), count).to(dtype)
        with torch.autocast(inputs.device.type, enabled=False):
            if state is not None:
                state = state.reshape(-1, state.shape[-1])
            found = [_run(engine, rows, given, state) for engine in self._engines]
            outputs = found[0] if self._measurement is None else self._measurement.read(found, self.coefficients)
        return outputs.to(inputs.dtype).reshape(*leading, outputs.shape[-1])

    def circuits_for(self, rows: int, gradients_of: Literal["inputs", "weights", "both"] | None = None) -> int:
        """Number of circuits that a forward pass with ``rows`` rows runs on the sampler; 0 on the simulator.

        Args:
            rows: number of rows.
            gradients_of: derivatives that a backward pass computes, which is then included. Default: none.
        """
        networks = [engine for engine in self._engines if isinstance(engine, QuantumNetwork)]
        extra = [network.gradient_circuits(gradients_of) if gradients_of else 0 for network in networks]
        return rows * (len(networks) + sum(extra))

    def extra_repr(self) -> str:
        """Sizes and options, for ``print(module)``."""
        return (
            f"num_qubits={self.ansatz.num_qubits}, num_inputs={self.ansatz.num_inputs}, "
            f"num_weights={self.ansatz.num_weights}, output={self.output!r}, engine={self.engine_name}"
        )


def _blocks(ansatz: Ansatz) -> list[int]:
    return (ansatz.circuit.metadata or {}).get(BLOCKS, [])


def _initial(initial: Any, ansatz: Ansatz) -> str | Tensor:
    """A name, or the numbers (W,)."""
    count, values = ansatz.num_weights, initial
    if isinstance(initial, str) and initial in get_args(Initial):
        if initial == "identity" and not _blocks(ansatz):
            raise ValueError(
                "Invalid initial: 'identity' needs a circuit of layers and their inverses, such as "
                "QuantumLayer('ring', circuit={'identity_blocks': True}, initial='identity')"
            )
        return initial
    if isinstance(initial, str | Path) and str(initial).endswith((".npy", ".pt")):
        read = np.load if str(initial).endswith(".npy") else partial(torch.load, weights_only=True)
        try:
            values = read(initial)
        except FileNotFoundError:
            raise
        except Exception as error:  # what a file that is no such file makes of a reader
            raise ValueError(f"Invalid initial: cannot read numbers from {str(initial)!r}: {error}") from error
    try:
        numbers = torch.as_tensor(values, dtype=torch.get_default_dtype())
    except (TypeError, ValueError, RuntimeError):
        numbers = None
    if numbers is None or numbers.shape != (count,) or not numbers.isfinite().all():
        got = repr(initial) if numbers is None else f"{initial!r} of shape {tuple(numbers.shape)}"
        names = ", ".join(map(repr, get_args(Initial)))
        raise ValueError(f"Invalid initial: {got}; it must be {names}, {count} numbers, or a .npy or .pt file of them")
    return numbers.detach().clone()


def _engine(ansatz: Ansatz, engine: Any, noise: PauliNoise | None) -> CircuitSimulator | QuantumNetwork:
    if engine is None or isinstance(engine, str):
        if engine in (None, "simulator", *get_args(Engine)):
            chosen = fastest_engine() if engine in (None, "simulator") else cast(Engine, engine)
            return CircuitSimulator(ansatz, engine=chosen) if noise is None else NoisySimulator(ansatz, noise, chosen)
    elif noise is not None:
        raise ValueError("Invalid noise: it is of the simulator; a sampler has its own, such as AerSampler(noise=...)")
    if isinstance(engine, BaseSamplerV2):
        return QuantumNetwork(ansatz, engine)
    if not isinstance(engine, QuantumNetwork):
        raise ValueError(
            f"Invalid engine: {str(engine)!r} ({type(engine).__name__}); it must be 'simulator', 'native', 'torch', "
            "None, a sampler (BaseSamplerV2), or a QuantumNetwork"
        )
    if engine.ansatz != ansatz:
        raise ValueError(
            "Invalid engine: the network runs another ansatz; write QuantumLayer(network.ansatz, engine=network)"
        )
    return engine


def _measuring(engine: CircuitSimulator | QuantumNetwork, paulis: Mapping[int, str]) -> Any:
    """The engine, with a change of basis at the end of its circuit."""
    return engine.measuring(paulis) if {"X", "Y"}.intersection(paulis.values()) else engine


def _run(
    engine: CircuitSimulator | QuantumNetwork, inputs: Tensor, weights: Tensor, state: Tensor | None = None
) -> Tensor:
    if isinstance(engine, CircuitSimulator):
        return engine(inputs, weights) if state is None else engine(inputs, weights, state)
    if state is not None:
        raise ValueError(
            "Invalid state: a sampler starts from 0; encode real vectors by encoding='amplitude', or simulate"
        )
    return _through_network(inputs, weights, engine)


class _NetworkFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weights: Tensor, network: QuantumNetwork) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(inputs, weights)
        ctx.network = network
        return torch.from_numpy(network.probabilities(_numpy(inputs), _numpy(weights))).to(inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        if torch.is_grad_enabled():  # create_graph=True; torch's once_differentiable misses some cases
            raise RuntimeError("Circuits are differentiable once; second derivatives need engine='simulator'")
        inputs, weights = ctx.saved_tensors
        by_inputs, by_weights = ctx.needs_input_grad[:2]
        of = "both" if by_inputs and by_weights else "inputs" if by_inputs else "weights"
        jacobians = ctx.network.jacobian(_numpy(inputs), _numpy(weights), of=of)
        input_jacobian, weight_jacobian = (torch.from_numpy(jacobian).to(grad) for jacobian in jacobians)
        return (
            torch.einsum("bo,bop->bp", grad, input_jacobian) if by_inputs else None,
            torch.einsum("bo,bop->bp" if weights.ndim == 2 else "bo,bop->p", grad, weight_jacobian)
            if by_weights
            else None,
            None,
        )


# torch.compile does not compile it, only the code around it.
_through_network: Any = torch.compiler.disable(_NetworkFunction.apply)


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().cpu().double().numpy()
