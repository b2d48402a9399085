"""Circuit layers in a trained model: split their outputs, and try classical replacements.

Shapes: N rows, I inputs (angles), O outputs, K_q = 1 + 2 * degree of angle q.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_qsgd.audit.findings import LayerFindings, Replacement
from lightning_qsgd.audit.passes import Change, Passed, Passes, Reservoir, substituted
from lightning_qsgd.audit.split import Series, shares
from lightning_qsgd.quantum import Ansatz, QuantumLayer
from lightning_qsgd.quantum.surrogate import grid_sizes

ROWS = 20_000  # inputs in a sample
PAIRS = 512  # inputs to evaluate twice, to measure noise
POINTS = 2_000  # in the figure


@dataclass(frozen=True)
class CircuitLayer:
    """A circuit layer of a module.

    Attributes:
        name: name of the layer in the module.
        module: the layer, which maps (..., I) to (..., O).
        ansatz: its circuit; None if it is unknown, for the reason ``why``.
        outputs: names of the outputs.
        engine: where the circuit runs.
        exact: whether equal inputs always give equal outputs.
        why: the reason for a missing ansatz, or "".
    """

    name: str
    module: nn.Module
    ansatz: Ansatz | None
    outputs: list[str]
    engine: str
    exact: bool
    why: str = ""

    @property
    def counts(self) -> tuple[int, int] | None:
        """Number of circuits and shots so far; None if the layer does not count them."""
        return (self.module.circuits, self.module.shots) if isinstance(self.module, QuantumLayer) else None


def circuit_layers(module: nn.Module) -> dict[str, CircuitLayer]:
    """Find each :class:`QuantumLayer`, and each ``TorchConnector`` with a ``SamplerQNN``, by its name in the module."""
    from qiskit_machine_learning.connectors import TorchConnector
    from qiskit_machine_learning.neural_networks import SamplerQNN

    found = {}
    for name, part in module.named_modules():
        if isinstance(part, QuantumLayer):
            n = part.ansatz.num_qubits
            names = part.observables if part.output == "expectations" else [f"P({k:0{n}b})" for k in range(2**n)]
            exact = part.engine_name == "simulator"
            found[name] = CircuitLayer(name, part, part.ansatz, list(names), part.engine_name, exact)
        elif isinstance(part, TorchConnector) and isinstance(part.neural_network, SamplerQNN) and not part.sparse:
            found[name] = _connector(name, part, part.neural_network)
    return found


def _connector(name: str, module: nn.Module, network: Any) -> CircuitLayer:
    shape = network.output_shape
    outputs = [f"output {k}" for k in range(math.prod(shape))]
    engine = f"SamplerQNN on {type(network.sampler).__name__}"
    try:
        circuit = network.circuit.remove_final_measurements(inplace=False)
        ansatz = Ansatz(circuit, network.input_params, network.weight_params)
    except ValueError as error:
        return CircuitLayer(name, module, None, outputs, engine, False, _reason(error))
    return CircuitLayer(name, module, ansatz, outputs, engine, False)


class Recorder:
    """Records a random sample of a layer's inputs and outputs.

    Args:
        layer: the layer.
        seed: seed of the sample. Default: 0.

    Attributes:
        shape, dtype: shape of one output, (O,) or another shape of O numbers, and its dtype.
    """

    def __init__(self, layer: CircuitLayer, seed: int = 0) -> None:
        self.layer = layer
        self.shape, self.dtype = torch.Size(), torch.float32
        self._sample = Reservoir(ROWS, seed)
        self._answer = layer.module.forward

    @property
    def change(self) -> Change:
        """The recording method, for :func:`substituted`."""
        return (self.layer.module, "forward", self._record)

    def _record(self, inputs: Tensor) -> Tensor:
        outputs = self._answer(inputs)
        rows = inputs.reshape(-1, inputs.shape[-1])
        self.shape, self.dtype = outputs.shape[inputs.ndim - 1 :], outputs.dtype
        self._sample.add(rows, outputs.reshape(len(rows), -1))
        return outputs

    @property
    def seen(self) -> int:
        """Number of rows so far."""
        return self._sample.seen

    def sample(self) -> tuple[Tensor, Tensor]:
        """The recorded inputs (N, I) and outputs (N, O), float64, with N at most 20,000; needs at least one row."""
        inputs, outputs = self._sample.columns()
        return inputs, outputs

    def stand_in(self, series: Series) -> Change:
        """A method that evaluates a series instead of the layer, for :func:`substituted`."""

        def answer(inputs: Tensor) -> Tensor:
            outputs = series(inputs.reshape(-1, inputs.shape[-1]).cpu().double())
            return outputs.to(inputs.device, self.dtype).reshape(*inputs.shape[:-1], *self.shape)

        return (self.layer.module, "forward", answer)


@torch.no_grad()
def noise_power(layer: CircuitLayer, inputs: Tensor) -> Tensor:
    """The noise power of each output (O,), float64, from two evaluations of at most 512 rows of inputs (N, I)."""
    if layer.exact:
        return torch.zeros(len(layer.outputs), dtype=torch.float64)
    weight = next(layer.module.parameters())
    rows = inputs[:PAIRS].to(weight.device, weight.dtype)
    first, second = (layer.module(rows).cpu().double().reshape(len(rows), -1) for _ in range(2))
    return (first - second).square().mean(0) / 2


def audit_layer(passes: Passes, trained: Passed, validation: Recorder, training: Recorder | None) -> LayerFindings:
    """Split the outputs of a layer over validation data, and try classical replacements in the model.

    Args:
        passes: passes of the trained model.
        trained: the pass of the unchanged model.
        validation, training: records of the layer over these data; training is None if there are no training data.
    """
    layer, notes = validation.layer, []
    untried, why = {}, layer.why
    whole, each, terms, sizes, tried = None, [], 0, None, []
    points: tuple[str, list[list[float]]] = ("", [])
    if not validation.seen:
        notes.append("It was never called on the validation data.")
    else:
        inputs, outputs = validation.sample()
        try:
            sizes = None if layer.ansatz is None else grid_sizes(layer.ansatz)
            if sizes is None:
                notes.append(f"Not split by angles: {layer.why}.")
            else:
                terms = math.prod(sizes)
                whole, each = shares(inputs, outputs, sizes, noise_power(layer, inputs))
        except ValueError as error:
            why = _reason(error)
            notes.append(f"Not split by angles: {why}.")
        fits, untried = _fits(inputs, outputs, sizes, training, why)
        named = {"single-angle part": "single-angle part", "classical series": "refitted series"}
        notes += [f"No {named[name]}: {reason}." for name, reason in untried.items() if sizes is not None]
        tried = [_replace(passes, trained, validation, name, series) for name, series in fits.items()]
        points = _points(inputs, outputs, fits, tried)
    ansatz = layer.ansatz
    circuit = "a circuit" if ansatz is None else f"{ansatz.num_qubits} qubits, {ansatz.num_inputs} angles"
    return LayerFindings(
        layer.name,
        circuit if ansatz is None else f"{circuit}, {ansatz.num_weights} weights",
        layer.engine,
        [validation.seen, min(validation.seen, ROWS)],
        layer.outputs,
        whole,
        each,
        terms,
        passes.judged(trained),
        tried,
        notes,
        *points,
        untried=untried,
    )


def _fits(
    inputs: Tensor, outputs: Tensor, sizes: Sequence[int] | None, training: Recorder | None, why: str
) -> tuple[dict[str, Series], dict[str, str]]:
    """The constant and single-angle part over validation data, a series fitted to training data, and failures."""
    fits = {"constant": Series([], 0, outputs.mean(0, keepdim=True))}
    if sizes is None:
        return fits, dict.fromkeys(("single-angle part", "classical series"), why)
    untried: dict[str, str] = {}
    try:
        fits["single-angle part"] = Series.fit(inputs, outputs, sizes, 1)
    except ValueError as error:
        untried["single-angle part"] = str(error)
    if training is None or not training.seen:
        untried["classical series"] = "there are no training data"
        return fits, untried
    try:
        fits["classical series"] = Series.fit(*training.sample(), sizes, 2)
    except ValueError as error:
        untried["classical series"] = str(error)
    return fits, untried


def _replace(passes: Passes, trained: Passed, recorder: Recorder, name: str, series: Series) -> Replacement:
    inputs, outputs = recorder.sample()
    power = outputs.square().mean()
    left = (outputs - series(inputs)).square().mean()
    passed = passes.run(lambda module: substituted([recorder.stand_in(series)]))
    reproduced = 1 - (left / power).item() if power > 0 else None
    return Replacement(name, len(series.coefficients), reproduced, passed.value, *lost_and_gained(trained, passed))


def lost_and_gained(trained: Passed, replaced: Passed) -> tuple[int, int]:
    """The number of examples that only the first pass gets right, and only the second; 0, 0 if unknown."""
    if trained.right is None or replaced.right is None:
        return 0, 0
    return int((trained.right & ~replaced.right).sum()), int((~trained.right & replaced.right).sum())


def _points(
    inputs: Tensor, outputs: Tensor, fits: dict[str, Series], tried: list[Replacement]
) -> tuple[str, list[list[float]]]:
    """The replacement that reproduces most, and pairs of outputs for a sample of rows, which are in random order."""
    best = max(tried, key=lambda replacement: replacement.reproduced or 0.0).name
    rows = slice(0, max(1, POINTS // outputs.shape[1]))
    pairs = torch.stack([outputs[rows], fits[best](inputs[rows])], -1).flatten(0, 1)
    return best, pairs[:POINTS].tolist()


def _reason(error: ValueError) -> str:
    """The first half of a message; the second half gives advice that does not apply to an audit."""
    return str(error).split(";")[0].removeprefix("Invalid samples: ")
