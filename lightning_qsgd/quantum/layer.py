"""QuantumLayer: a circuit with trainable weights as a torch module.

Shapes: B rows, n qubits, I inputs, W weights, O outputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_qsgd.quantum.circuits import Ansatz
from lightning_qsgd.quantum.fingerprint import of_ansatz
from lightning_qsgd.quantum.network import QuantumNetwork
from lightning_qsgd.quantum.observables import expectation_matrix
from lightning_qsgd.quantum.samplers import with_noise_position
from lightning_qsgd.quantum.simulator import CircuitSimulator

Output = Literal["probabilities", "expectations"]


class CircuitModule(nn.Module):
    """A module whose state_dict holds a fingerprint of its circuit, which must agree when it is loaded.

    Attributes:
        ansatz: the circuit.
        engine: where it runs: a :class:`CircuitSimulator` or a :class:`QuantumNetwork`.
    """

    ansatz: Ansatz
    engine: CircuitSimulator | QuantumNetwork

    def remember(self, ansatz: Ansatz, what: str = "") -> None:
        """Set ``ansatz``; the fingerprint is made from it and from ``what``, anything else that must agree."""
        self.ansatz = ansatz
        digest = of_ansatz(ansatz) if not what else hashlib.sha256(f"{of_ansatz(ansatz)} {what}".encode()).hexdigest()
        self._circuit_id = int(digest[:15], 16)  # 60 bits

    def get_extra_state(self) -> Tensor:
        """The fingerprint; and, (3,) int64 then, the place of the sampler's noise, where it has one.

        No buffer, because averaged weights have averaged buffers.
        """
        sampler = self._seeded_sampler
        return torch.tensor(self._circuit_id if sampler is None else [self._circuit_id, *sampler.noise_position])

    def set_extra_state(self, state: Tensor) -> None:
        """Go on where the sampler's noise was, if both sides have such a place; the fingerprint was compared."""
        if state.numel() == 3 and (sampler := self._seeded_sampler) is not None:
            _, step, call = state.tolist()
            sampler.noise_position = (step, call)

    @property
    def _seeded_sampler(self) -> Any:
        return None if isinstance(self.engine, CircuitSimulator) else with_noise_position(self.engine.sampler)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # type: ignore
        before = state_dict.pop(f"{prefix}circuit_id", None)  # as it was saved by earlier versions
        if before is not None:
            state_dict[f"{prefix}_extra_state"] = before
        saved = state_dict.get(f"{prefix}_extra_state")
        if saved is not None and int(saved.flatten()[0]) != self._circuit_id:
            args[-1].append(
                f"{prefix[:-1] or type(self).__name__}: the weights belong to another circuit, readout or phi than "
                f"this one's: {self.extra_repr()}"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def engine_name(self) -> str:
        """ "simulator", or the name of the sampler's class."""
        return "simulator" if isinstance(self.engine, CircuitSimulator) else type(self.engine.sampler).__name__

    @property
    def circuits(self) -> int:
        """Circuits run so far on the network."""
        return getattr(self.engine, "circuits", 0)

    @property
    def shots(self) -> int:
        """Shots run so far on the network."""
        return getattr(self.engine, "shots", 0)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds in the network so far."""
        return getattr(self.engine, "seconds", 0.0)


class QuantumLayer(CircuitModule):
    """(..., num_inputs) angles to outcome probabilities (..., 2**n), or to expectations of products of Z (..., O).

    Args:
        ansatz: the circuit; its weights become one trainable tensor, drawn uniformly from [-pi, pi) by torch's global
            generator.
        output: "probabilities" (default) or "expectations".
        engine: "simulator" (default): :class:`CircuitSimulator`, exact, by autograd (also twice); or a
            :class:`QuantumNetwork` on any sampler: gradients by parameter shift, one job of one PUB for all rows, once
            differentiable. None: "simulator".
        observables: names such as "Z0" or "Z0Z1", for "expectations" only. Default: Z of each qubit.

    Circuits run in float32, or in float64 if inputs or weights are, outside of autocast; the output has the dtype of
    the inputs. The state_dict holds the weights and a fingerprint of the circuit, which must agree when it is loaded:
    engines can be swapped, circuits of the same size cannot. Shot noise follows the sampler's own sequence of calls,
    whose place is in the state_dict too (of samplers with a ``noise_position``, as :class:`AerSampler`): a resumed run
    draws the shots that the uninterrupted one would.

    Attributes:
        weights: (W,) radians; (0,) where the ansatz has none.
        circuits, shots, seconds: run so far on the network, counting gradients; 0 on the simulator.

    Raises:
        ValueError: for an invalid option, a network of another ansatz, or inputs of a wrong shape or dtype.
    """

    matrix: Tensor

    def __init__(
        self,
        ansatz: Ansatz,
        output: Output = "probabilities",
        engine: Literal["simulator"] | QuantumNetwork | None = "simulator",
        *,
        observables: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(ansatz, Ansatz):
            raise ValueError(
                f"Invalid ansatz: a {type(ansatz).__name__}; wrap the circuit: QuantumLayer(Ansatz(circuit, inputs, "
                "weights)), where inputs and weights are its parameters that take data and those that are trained"
            )
        if output not in get_args(Output):
            raise ValueError(f"Invalid output: {output!r}; it must be 'probabilities' or 'expectations'")
        if observables is not None and output == "probabilities":
            raise ValueError("Invalid observables: they need output='expectations'")
        if engine is None:
            engine = "simulator"
        if engine != "simulator" and not isinstance(engine, QuantumNetwork):
            raise ValueError(
                f"Invalid engine: {str(engine)!r} ({type(engine).__name__}); it must be 'simulator', None or a "
                "QuantumNetwork, for a sampler QuantumNetwork(ansatz, sampler)"
            )
        if isinstance(engine, QuantumNetwork) and engine.ansatz != ansatz:
            raise ValueError(
                "Invalid engine: the network runs another ansatz; write QuantumLayer(network.ansatz, engine=network)"
            )
        n = ansatz.num_qubits
        self.output = output
        self.engine = CircuitSimulator(ansatz) if isinstance(engine, str) else engine
        self.observables = tuple(observables) if observables is not None else tuple(f"Z{q}" for q in range(n))
        matrix = expectation_matrix(self.observables, n).float() if output == "expectations" else torch.empty(0)
        self.register_buffer("matrix", matrix, persistent=False)
        self.remember(ansatz)
        self.weights = nn.Parameter(torch.empty(ansatz.num_weights), requires_grad=ansatz.num_weights > 0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew, uniformly from [-pi, pi)."""
        nn.init.uniform_(self.weights, -torch.pi, torch.pi)

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the circuit once per row.

        Args:
            inputs: (..., num_inputs), floating point, radians.

        Returns:
            (..., 2**n), or (..., O) for expectations; dtype and device of ``inputs``.
        """
        if not inputs.is_floating_point() or inputs.shape[-1:] != (self.ansatz.num_inputs,):
            raise ValueError(
                f"Invalid inputs: {inputs.dtype} of shape {tuple(inputs.shape)}; they must be floating point, "
                f"(..., {self.ansatz.num_inputs})"
            )
        double = torch.float64 in (inputs.dtype, self.weights.dtype)
        dtype = torch.float64 if double else torch.float32
        rows, weights = inputs.reshape(-1, self.ansatz.num_inputs).to(dtype), self.weights.to(dtype)
        with torch.autocast(inputs.device.type, enabled=False):
            if isinstance(self.engine, CircuitSimulator):
                outputs = self.engine(rows, weights)
            else:
                outputs = _through_network(rows, weights, self.engine)
            if self.output == "expectations":
                outputs = outputs @ self.matrix.to(dtype)
        return outputs.to(inputs.dtype).reshape(*inputs.shape[:-1], outputs.shape[-1])

    def extra_repr(self) -> str:
        """Sizes and options, for ``print(module)``."""
        return (
            f"num_qubits={self.ansatz.num_qubits}, num_inputs={self.ansatz.num_inputs}, "
            f"num_weights={self.ansatz.num_weights}, output={self.output!r}, engine={self.engine_name}"
        )


class _NetworkFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weights: Tensor, network: QuantumNetwork) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(inputs, weights)
        ctx.network = network
        return torch.from_numpy(network.probabilities(_numpy(inputs), _numpy(weights))).to(inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        if torch.is_grad_enabled():  # create_graph=True: torch's once_differentiable would let some cases pass silently
            raise RuntimeError("Circuits are differentiable once; second derivatives need engine='simulator'")
        inputs, weights = ctx.saved_tensors
        by_inputs, by_weights = ctx.needs_input_grad[:2]
        of = "both" if by_inputs and by_weights else "inputs" if by_inputs else "weights"
        jacobians = ctx.network.jacobian(_numpy(inputs), _numpy(weights), of=of)
        input_jacobian, weight_jacobian = (torch.from_numpy(jacobian).to(grad) for jacobian in jacobians)
        return (
            torch.einsum("bo,bop->bp", grad, input_jacobian) if by_inputs else None,
            torch.einsum("bo,bop->p", grad, weight_jacobian) if by_weights else None,
            None,
        )


# torch.compile runs it as it is, and compiles what is around it.
_through_network: Any = torch.compiler.disable(_NetworkFunction.apply)


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().cpu().double().numpy()
