"""CircuitSimulator: exact outcome probabilities, or amplitudes, batched and differentiable, on two engines."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_qsgd.quantum.angles import check_inputs
from lightning_qsgd.quantum.circuits import Ansatz
from lightning_qsgd.quantum.normal_form import NormalForm
from lightning_qsgd.quantum.torch_engine import MAX_QUBITS, TorchEngine, permuted

Engine = Literal["native", "torch"]
MAX_NATIVE = 20
LONG = 16  # above so many layers of rotations, states are normalised: each H changes the norm by 6e-8 in float32
CALL = 100_000  # operations on amplitudes in the time that a call of the native engine takes besides
ROTATE = ("h", "ry", "rx", "sx", "sxdg")


class CircuitSimulator:
    """Simulates an ansatz exactly on the statevector, as a torch function of inputs and weights.

    It is differentiable any number of times in reverse mode (``torch.func.jacrev``, not ``jacfwd``). The torch engine
    runs on every device, and torch.compile compiles it without graph breaks. The native engine, compiled by numba at
    its first use, is faster on the CPU; it computes gradients by going back through the gates, so that memory does not
    grow with the depth (adjoint differentiation). Amplitudes, second derivatives, ``torch.func``, torch.compile and
    other devices are left to the torch engine. Both agree to rounding.

    Args:
        ansatz: the circuit, with at most 20 qubits on the native engine and 12 on the torch engine, without resets.
        amplitudes: whether to return complex amplitudes, with the phases of Qiskit's ``Statevector``, instead of
            outcome probabilities. No measurement can determine the global phase. Default: False.
        engine: "torch", or "native", which needs numba (the extra ``fast``). Default: "torch".

    Raises:
        ValueError: if an engine is unknown, or the ansatz has too many qubits, or a reset.
        ModuleNotFoundError: if ``engine`` is "native" and numba is not installed.
    """

    def __init__(self, ansatz: Ansatz, amplitudes: bool = False, engine: Engine = "torch") -> None:
        if engine not in ("native", "torch"):
            raise ValueError(f"Invalid engine: {engine!r}; it must be 'native' or 'torch'")
        if engine == "native" and not has_numba():
            raise ModuleNotFoundError("engine='native' needs numba: pip install 'lightning-qsgd[fast]'")
        form = ansatz.normal_form
        most = MAX_QUBITS if amplitudes or engine == "torch" else MAX_NATIVE
        if (n := form.num_qubits) > most:
            raise ValueError(_too_large(n, n - ansatz.num_qubits, most, engine))
        self.ansatz, self.amplitudes = ansatz, amplitudes
        self.engine: Engine = engine
        self._extend = None if form.angles.is_linear else form.angles.extend
        self._routed = n > ansatz.num_qubits
        self._torch = TorchEngine(form, amplitudes) if n <= MAX_QUBITS else None
        if self._torch is not None:
            layers = self._torch.num_real
        else:
            layers = max(sum(gate.qubits[0] == q and gate.name in ROTATE for gate in form.gates) for q in range(n))
        self._is_long = layers > LONG
        if engine == "native":
            self._whole, self._product = _Native(form, self._torch), None
            if len(components := form.components()) > 1:
                self._product = _Product(components)

    def measuring(self, paulis: Mapping[int, str]) -> CircuitSimulator:
        """The simulator of :meth:`Ansatz.measuring`, on the same engine."""
        return self.for_circuit(self.ansatz.measuring(paulis))

    def for_circuit(self, ansatz: Ansatz) -> CircuitSimulator:
        """The simulator of another circuit, on the same engine."""
        return CircuitSimulator(ansatz, self.amplitudes, self.engine)

    def reference(self, inputs: Tensor, weights: Tensor, state: Tensor | None = None) -> Tensor:
        """The same on the torch engine; inputs and weights as from :meth:`Angles.extend`, the state normalised.

        Raises:
            ValueError: if the ansatz has more than 12 qubits.
        """
        if self._torch is None:
            raise _only_native(self.ansatz.normal_form)
        return self._torch(inputs, weights, state)

    def __call__(self, inputs: Tensor, weights: Tensor | None = None, state: Tensor | None = None) -> Tensor:
        """Compute outcome probabilities or amplitudes.

        Args:
            inputs: (B, num_inputs), float32 or float64, radians.
            weights: (num_weights,) or (B, num_weights), same dtype, radians. Default: None, only for an ansatz without
                weights.
            state: (B, 2**n) amplitudes that the circuit starts from, real or complex, of any norm but 0; amplitude k is
                that of outcome k. It runs on the torch engine. Default: 0 on all qubits.

        Returns:
            (B, 2**n), on the device and in the dtype of ``inputs``; amplitudes have the complex dtype of its precision.

        Raises:
            ValueError: if a shape or dtype is wrong.
        """
        check_inputs(inputs, self.ansatz.num_inputs)
        batch, outcomes = len(inputs), 2**self.ansatz.num_qubits
        weights = inputs.new_zeros(0) if weights is None else weights
        count = self.ansatz.num_weights
        if weights.dtype != inputs.dtype or weights.shape not in ((count,), (batch, count)):
            raise ValueError(
                f"Invalid weights: {weights.dtype} of shape {tuple(weights.shape)}; they must be {inputs.dtype}, "
                f"({count},) or ({batch}, {count})"
            )
        if not batch:
            empty = inputs.new_zeros(0, outcomes) * (inputs.sum() + weights.sum())  # gradients of 0
            return torch.complex(empty, empty) if self.amplitudes else empty
        if self._extend is not None:
            inputs, weights = self._extend(inputs, weights)
        if state is not None:
            out = self.reference(inputs, weights, self._normalised(state, inputs))
        elif self._runs_native(inputs, weights):
            product = self._product
            circuit = self._whole if product is None or not product.pays(self._whole, batch) else product
            out = circuit(inputs, weights)
        else:
            out = self.reference(inputs, weights)
        if self._is_long:
            out = out / (torch.linalg.vector_norm if self.amplitudes else torch.sum)(out, dim=-1, keepdim=True)
        return out[:, :outcomes] if self._routed else out  # ancillas are the highest bits, and 0

    def _normalised(self, state: Tensor, inputs: Tensor) -> Tensor:
        shape = (len(inputs), 2**self.ansatz.num_qubits)
        if self._routed:
            raise ValueError("Invalid state: the circuit was transpiled with ancillas; pass the circuit from before")
        if state.shape != shape or not (state.is_floating_point() or state.is_complex()):
            raise ValueError(
                f"Invalid state: {state.dtype} of shape {tuple(state.shape)}; it must be real or complex amplitudes, "
                f"{shape}"
            )
        parts = torch.view_as_real(state) if state.is_complex() else torch.stack([state, torch.zeros_like(state)], -1)
        parts = parts.to(inputs.dtype)
        return parts / parts.square().sum((1, 2), keepdim=True).sqrt()  # (B, 2**n, 2)

    def runs_native_on(self, device: torch.device) -> bool:
        """Whether plain calls on a device run on the native engine."""
        return self.engine == "native" and not self.amplitudes and device.type == "cpu"

    def _runs_native(self, inputs: Tensor, weights: Tensor) -> bool:
        plain = self.runs_native_on(inputs.device) and self.runs_native_on(weights.device)
        return plain and inputs.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling()


def fastest_engine() -> Engine:
    """ "native" where numba is installed, otherwise "torch"."""
    return "native" if has_numba() else "torch"


def has_numba() -> bool:
    """Whether the native engine can be used."""
    return importlib.util.find_spec("numba") is not None


def _too_large(n: int, ancillas: int, most: int, engine: str) -> str:
    routed = f" (including {ancillas} ancillas of its router)" if ancillas else ""
    amplitudes = 2**n * 8 * 2 * 3  # float32, real and imaginary parts, of two states and the probabilities
    size = f"a row would need {amplitudes / 2**30:.1f} GiB; " if n > MAX_NATIVE else ""
    more = f" engine='native' takes up to {MAX_NATIVE}." if most < n <= MAX_NATIVE else ""
    return (
        f"Invalid ansatz: {n} qubits{routed}; {size}the {engine} engine takes at most {most}.{more} A sampler takes up "
        "to 24: QuantumNetwork(ansatz, AerSampler())"
    )


def _only_native(form: NormalForm) -> ValueError:
    return ValueError(
        f"Invalid ansatz: {form.num_qubits} qubits; the torch engine takes at most {MAX_QUBITS}, and computes second "
        "derivatives, torch.func, torch.compile, and what is not on the CPU"
    )


class _Native:
    """A circuit on the native engine, as a torch function."""

    def __init__(self, form: NormalForm, reference: TorchEngine | None = None) -> None:
        from lightning_qsgd.quantum.native import NativeEngine

        self.form, self.engine = form, NativeEngine(form)
        self.work = len(form.gates) << form.num_qubits
        if reference is not None:
            self.reference = reference

    @cached_property
    def reference(self) -> TorchEngine:
        """The same on the torch engine."""
        if self.form.num_qubits > MAX_QUBITS:
            raise _only_native(self.form)
        return TorchEngine(self.form)

    def __call__(self, inputs: Tensor, weights: Tensor) -> Tensor:
        keep = torch.is_grad_enabled() and (inputs.requires_grad or weights.requires_grad)
        return _Run.apply(inputs, weights, self, keep)[0]


class _Product:
    """Circuits that no gate connects, one after the other; an outcome's probability is the product of theirs."""

    def __init__(self, components: list[tuple[list[int], NormalForm]]) -> None:
        self.parts = [_Native(form) for _, form in components]
        self.work = sum(part.work for part in self.parts)
        order = [q for qubits, _ in components for q in qubits]  # of the bits of the product
        outcomes = torch.arange(1 << len(order))
        self.index = sum((((outcomes >> q) & 1) << bit for bit, q in enumerate(order)), torch.zeros_like(outcomes))
        self.inverse = self.index.argsort()

    def pays(self, whole: _Native, batch: int) -> bool:
        """Whether it is faster than the whole circuit, by the number of operations on amplitudes and the calls."""
        return (whole.work - self.work) * batch > CALL * len(self.parts)

    def __call__(self, inputs: Tensor, weights: Tensor) -> Tensor:
        found = None
        for part in self.parts:
            own = part(inputs, weights)
            found = own if found is None else (own.unsqueeze(2) * found.unsqueeze(1)).flatten(1)
        assert found is not None
        return permuted(found, self.index, self.inverse, 1)


class _Run(torch.autograd.Function):
    """The native engine for autograd; what is not a first derivative on plain tensors is the torch engine's."""

    @staticmethod
    def forward(inputs: Tensor, weights: Tensor, circuit: _Native, keep: bool) -> Any:
        return circuit.engine.forward(inputs, weights, keep)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.circuit = inputs[2]
        ctx.save_for_backward(*inputs[:2], output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        inputs, weights, states = ctx.saved_tensors
        if torch.is_grad_enabled() or not len(states):
            pull = torch.func.vjp(ctx.circuit.reference, inputs, weights)[1]
            return *pull(grads[0]), None, None
        return *ctx.circuit.engine.backward(states, grads[0], inputs, weights), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        inputs, weights, circuit, _ = args
        out = torch.func.vmap(circuit.reference, in_dims[:2])(inputs, weights)
        return (out, inputs.new_zeros(0)), (0, None)
