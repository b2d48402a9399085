"""Classical twins of circuit layers: what takes the place of each QuantumLayer in a model.

Shapes: B rows, I inputs, W weights, O outputs, K_q = 1 + 2 * degree of input q, T terms of a series.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_qsgd.quantum.angles import check_inputs
from lightning_qsgd.quantum.fourier import coefficients_from, contract, count_terms, design, nodes
from lightning_qsgd.quantum.layer import CircuitModule, QuantumLayer
from lightning_qsgd.quantum.product_circuit import product_circuit
from lightning_qsgd.quantum.surrogate import CHUNK, grid_sizes
from lightning_qsgd.twin_names import LAYER_TWINS, MEANINGS, LayerTwin, NoTwinError

MAX_TERMS = 4096  # of a fitted series
PER_TERM = 4  # rows that a series without all products is fitted to
SMALLEST = 1e-9  # probability of a fitted series, before it is normalised


class CircuitTwin(nn.Module):
    """A module in place of a :class:`QuantumLayer`, with the same inputs and outputs.

    It is called like the layer: floating-point inputs (..., I) give (..., O) in the dtype of the inputs. Parameters
    have the dtype and device of the layer's weights.

    Args:
        layer: the layer. It must not be used any more, since some twins change it.

    Attributes:
        kind: the word for it.
        num_inputs, num_outputs: I and O.

    Raises:
        NoTwinError: if the layer has no such twin.
    """

    kind: ClassVar[LayerTwin]

    def __init__(self, layer: QuantumLayer) -> None:
        super().__init__()
        self.num_inputs, self.num_outputs = layer.ansatz.num_inputs, layer.num_outputs

    def refuse(self, why: str, works: tuple[LayerTwin, ...]) -> NoTwinError:
        """The error for a layer or a call of it that has no such twin."""
        return NoTwinError(f"Invalid replace_circuits: {self.kind!r}; {why}. Use {', '.join(works)}")


class UntrainedTwin(CircuitTwin):
    """The circuit with its initial weights, and its initial coefficients of observables, which are not trained."""

    kind = "untrained"

    def __init__(self, layer: QuantumLayer) -> None:
        super().__init__(layer)
        self.circuit = layer.requires_grad_(False)

    def forward(
        self, inputs: Tensor | None = None, weights: Tensor | None = None, state: Tensor | None = None
    ) -> Tensor:
        """Run the circuit; see :meth:`QuantumLayer.forward`."""
        if weights is not None:
            raise self.refuse("the layer gets its weights from outside, and has none to leave untrained", _OUTSIDE)
        return self.circuit(inputs, None, state)


class ProductTwin(CircuitTwin):
    """The circuit without its gates on two or more qubits; weights that only these gates had are gone."""

    kind = "product"

    def __init__(self, layer: QuantumLayer) -> None:
        super().__init__(layer)
        try:
            found = product_circuit(layer.ansatz)
        except ValueError as error:
            raise self.refuse(f"{error}", ("untrained", "linear", "mlp")) from error
        self.kept, self.removed = found.weights, found.removed
        self.circuit = layer.like(found.ansatz, layer.weights[self.kept])

    def forward(
        self, inputs: Tensor | None = None, weights: Tensor | None = None, state: Tensor | None = None
    ) -> Tensor:
        """Run the circuit; weights from outside are those of the whole circuit. See :meth:`QuantumLayer.forward`."""
        return self.circuit(inputs, None if weights is None else weights[..., self.kept], state)


class ShuffledInputsTwin(CircuitTwin):
    """The trained circuit, each row of which gets the inputs (and the state) of another row of the batch.

    Rows are those of the first axis. In training they are permuted at random, without fixed points. The permutation is
    a function of the state of torch's global generator, which it does not change, so that all other random numbers are
    those of the circuit's own run: a module that seeds each step, such as the tasks of this package, gets another
    permutation in each step. In evaluation the permutation is fixed.

    Warns:
        UserWarning: once, at a batch of one row, which cannot be shuffled.
    """

    kind = "shuffled_inputs"

    def __init__(self, layer: QuantumLayer) -> None:
        super().__init__(layer)
        if not self.num_inputs:
            raise self.refuse("the circuit has no inputs to shuffle", _WITHOUT_INPUTS)
        self.circuit = layer
        self._warned = False

    def forward(
        self, inputs: Tensor | None = None, weights: Tensor | None = None, state: Tensor | None = None
    ) -> Tensor:
        """Run the circuit; see :meth:`QuantumLayer.forward`."""
        rows = 1 if inputs is None or inputs.ndim < 2 else len(inputs)
        if inputs is None or rows < 2:
            if not self._warned and rows == 1:
                warnings.warn("A batch of one row cannot be shuffled: the circuit gets its own inputs", stacklevel=2)
                self._warned = True
            return self.circuit(inputs, weights, state)
        order = _permutation(rows, fixed=not self.training).to(inputs.device)
        return self.circuit(inputs[order], weights, None if state is None else state[order])


def _draw(rows: int, fixed: bool) -> Tensor:
    """A random permutation without fixed points (rows,), which consists of one cycle."""
    if fixed:
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(0), device="cpu")
    else:
        with torch.random.fork_rng(devices=[]):
            order = torch.randperm(rows, device="cpu")
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


# torch.compile does not compile it, only the code around it.
_permutation: Any = torch.compiler.disable(_draw)


class ClassicalTwin(CircuitTwin):
    """A function of the layer's inputs alone, without a circuit.

    It is computed outside autocast, in float32, or in float64 if the inputs are, as circuits are. If the layer's
    outputs are probabilities, so are the twin's, by a softmax.
    """

    def __init__(self, layer: QuantumLayer) -> None:
        super().__init__(layer)
        self.output = layer.output

    @abstractmethod
    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs (B, O) of inputs (B, I), before a softmax."""

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Probabilities (B, O) of outputs (B, O)."""
        return outputs.softmax(-1)

    def forward(
        self, inputs: Tensor | None = None, weights: Tensor | None = None, state: Tensor | None = None
    ) -> Tensor:
        """Map inputs (..., I) to (..., O); without inputs, only for I = 0, to (1, O).

        Raises:
            NoTwinError: if weights or a state are given from outside.
            ValueError: if inputs have another shape, or are not floating point.
        """
        for name, given in (("weights", weights), ("state", state)):
            if given is not None:
                raise self.refuse(f"the layer gets its {name} from outside, which this twin does not have", _OUTSIDE)
        if inputs is None:
            own = next(self.parameters(), torch.empty(0))
            inputs = own.new_zeros(1, 0) if not self.num_inputs else own.new_zeros(0)
        check_inputs(inputs, self.num_inputs, rows_only=False)
        x = inputs.reshape(math.prod(inputs.shape[:-1]), self.num_inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            out = self.outputs(x.to(torch.promote_types(x.dtype, torch.float32)))
            if self.output == "probabilities":
                out = self.probabilities(out)
        return out.to(inputs.dtype).reshape(*inputs.shape[:-1], self.num_outputs)

    def extra_repr(self) -> str:
        """Sizes, for ``print(module)``."""
        return f"num_inputs={self.num_inputs}, num_outputs={self.num_outputs}, output={self.output!r}"


class LinearTwin(ClassicalTwin):
    """A linear map with bias, I -> O."""

    kind = "linear"

    def __init__(self, layer: QuantumLayer) -> None:
        super().__init__(layer)
        self.linear = _linear(self.num_inputs, self.num_outputs, layer)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs (B, O) of inputs (B, I)."""
        return _apply(self.linear, inputs)


class TanhTwin(LinearTwin):
    """A linear map with bias, I -> O, and tanh."""

    kind = "tanh"

    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs (B, O) in (-1, 1) of inputs (B, I)."""
        return _apply(self.linear, inputs).tanh()


class MLPTwin(ClassicalTwin):
    """Two linear maps with bias, I -> h -> O, with tanh between them.

    h is at least 1, and otherwise such that the number of parameters is as close as possible to the layer's trainable
    ones.

    Attributes:
        width: h.
    """

    kind = "mlp"

    def __init__(self, layer: QuantumLayer) -> None:
        super().__init__(layer)
        if not self.num_inputs:
            raise self.refuse("the circuit has no inputs", _WITHOUT_INPUTS)
        own = self.num_inputs + 1 + self.num_outputs  # parameters of each hidden number
        self.width = max(1, round((trainable(layer) - self.num_outputs) / own))
        self.first = _linear(self.num_inputs, self.width, layer)
        self.second = _linear(self.width, self.num_outputs, layer)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs (B, O) of inputs (B, I)."""
        return _apply(self.second, _apply(self.first, inputs).tanh())


class BypassTwin(ClassicalTwin):
    """The inputs themselves. If O > I they are repeated; if O < I, output j is the sum of inputs j, j + O, ..."""

    kind = "bypass"

    def __init__(self, layer: QuantumLayer) -> None:
        super().__init__(layer)
        if not self.num_inputs:
            raise self.refuse("the circuit has no inputs", _WITHOUT_INPUTS)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs (B, O) of inputs (B, I)."""
        size, out = self.num_inputs, self.num_outputs
        if out >= size:
            return inputs.repeat(1, -(-out // size))[:, :out]
        return F.pad(inputs, (0, -size % out)).unflatten(-1, (-1, out)).sum(1)


class FittedSeriesTwin(ClassicalTwin):
    """A Fourier series in the inputs with the circuit's frequencies, fitted to the circuit, whose coefficients train.

    It begins as the exact circuit with its initial weights, without noise and shots. If the whole series has more than
    4,096 terms, it has only products of at most two angles, or of one if these are too many as well; it is then the
    best fit under independent uniform angles. Probabilities are clipped at 1e-9 and normalised rather than put through
    a softmax, so that they begin as the circuit's.

    Attributes:
        sizes: K_q of each input.
        together: number of angles in a product at most.
        coefficients: (K_1, ..., K_I, O) of the whole series, or (T, O).
    """

    kind = "fitted_series"

    def __init__(self, layer: QuantumLayer) -> None:
        super().__init__(layer)
        if not self.num_inputs:
            raise self.refuse("the circuit has no inputs", _WITHOUT_INPUTS)
        try:
            self.sizes = grid_sizes(layer.ansatz)
            exact = layer.like(layer.ansatz, layer.weights, exact=True)
        except ValueError as error:
            why = str(error).partition("; run the circuit")[0].removesuffix(".")
            raise self.refuse(f"the circuit cannot be fitted: {why[0].lower()}{why[1:]}", ("mlp", "tanh")) from error
        counts = {self.num_inputs: math.prod(self.sizes)} | {m: count_terms(self.sizes, m) for m in (2, 1)}
        fits = [m for m in counts if counts[m] <= MAX_TERMS]
        if not fits:
            raise self.refuse(f"even without products its series has {counts[1]:,} terms", ("mlp", "tanh"))
        self.together = fits[0]
        with torch.no_grad():
            fitted = self._fit(exact, counts[self.together]).to(layer.weights)
        self.coefficients = nn.Parameter(fitted)

    @property
    def _is_whole(self) -> bool:
        return self.together >= self.num_inputs

    def _fit(self, exact: QuantumLayer, terms: int) -> Tensor:
        device = exact.weights.device
        if self._is_whole:
            points = torch.cartesian_prod(*map(nodes, self.sizes)).reshape(-1, self.num_inputs)
        else:
            generator = torch.Generator().manual_seed(0)
            size = (max(PER_TERM * terms, 1000), self.num_inputs)
            points = 2 * torch.pi * torch.rand(size, generator=generator, dtype=torch.float64)
        values = torch.cat([exact(chunk.to(device)).cpu() for chunk in points.split(CHUNK)])
        if self._is_whole:
            return coefficients_from(values.reshape(*self.sizes, -1))
        columns = design(points, self.sizes, self.together)
        return torch.linalg.solve(columns.T @ columns, columns.T @ values)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs (B, O) of inputs (B, I)."""
        coefficients = self.coefficients.to(inputs)
        if self._is_whole:
            return contract(inputs, coefficients)
        return design(inputs, self.sizes, self.together) @ coefficients

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Probabilities (B, O) of values (B, O) of the series."""
        positive = outputs.clamp(min=SMALLEST)
        return positive / positive.sum(-1, keepdim=True)


_OUTSIDE: tuple[LayerTwin, ...] = ("product", "shuffled_inputs")  # twins that take weights from outside
_WITHOUT_INPUTS: tuple[LayerTwin, ...] = ("untrained", "product", "linear", "tanh")
_CLASSES: dict[LayerTwin, type[CircuitTwin]] = {
    kind.kind: kind
    for kind in (
        UntrainedTwin,
        ProductTwin,
        LinearTwin,
        TanhTwin,
        MLPTwin,
        FittedSeriesTwin,
        BypassTwin,
        ShuffledInputsTwin,
    )
}


def _linear(inputs: int, outputs: int, layer: QuantumLayer) -> nn.Linear:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # without inputs
        return nn.Linear(inputs, outputs, device=layer.weights.device, dtype=layer.weights.dtype)


def _apply(linear: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, linear.weight.to(x), linear.bias.to(x))


def trainable(module: nn.Module) -> int:
    """The number of trainable parameters of a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


class Replaced(NamedTuple):
    """A layer that was replaced.

    Attributes:
        name: its name in the model; of a shared layer, the first.
        twin: what took its place.
        before, after: numbers of trainable parameters.
    """

    name: str
    twin: CircuitTwin
    before: int
    after: int

    def __str__(self) -> str:
        twin = self.twin
        same = isinstance(twin, ProductTwin) and not twin.removed
        return (
            f"Circuit {self.name}, {twin.num_inputs} to {twin.num_outputs}, replaced by {twin.kind} "
            f"({MEANINGS[twin.kind]}): trainable parameters {self.before:,} -> {self.after:,}"
            + ("; the circuit has no gate on several qubits, so that this twin is the same circuit" if same else "")
        )


def replace_circuits(module: nn.Module, kind: LayerTwin) -> list[Replaced]:
    """Replace each :class:`QuantumLayer` in a module by its classical twin, in place.

    A layer that occurs in several places gets one twin. The state of torch's global generator does not change. A second
    call changes nothing.

    Args:
        module: the module that contains the layers.
        kind: "untrained", "product", "linear", "tanh", "mlp", "fitted_series", "bypass" or "shuffled_inputs".

    Returns:
        The layers that were replaced; empty if this was done before.

    Raises:
        NoTwinError: if the kind is unknown; if there is no layer, or there are circuits that are no ``QuantumLayer``,
            such as those of quantum attention; if layers share their weights; if there are twins of another kind; or if
            a layer has no such twin.
    """
    if kind not in LAYER_TWINS:
        raise NoTwinError(f"Invalid replace_circuits: {kind!r}; it must be one of {', '.join(LAYER_TWINS)}")
    twins = [part for part in module.modules() if isinstance(part, CircuitTwin)]
    if other := [part.kind for part in twins if part.kind != kind]:
        raise NoTwinError(f"Invalid replace_circuits: {kind!r}; the model has {other[0]!r} already: build it anew")
    if own := other_circuits(module):
        raise NoTwinError(
            f"Invalid replace_circuits: {kind!r}; {', '.join(own)} would stay: only QuantumLayers have twins. Take "
            "these out of the model (attention: classical), or use their own controls (QuantumAttention: phi: series, "
            "phi: random or angles: frozen)"
        )
    layers = circuits_of(module)
    if not layers and not twins:
        raise NoTwinError(
            f"Invalid replace_circuits: {kind!r}; {type(module).__name__} has no QuantumLayer once __init__ and "
            "configure_model have run: leave the setting out"
        )
    if "" in layers:
        raise NoTwinError(f"Invalid replace_circuits: {kind!r}; put the layer into a module, such as Sequential(layer)")
    _check_shared(layers, kind)
    found: dict[int, Replaced] = {}
    for name, layer in layers.items():
        if (known := found.get(id(layer))) is None:
            before = trainable(layer)
            try:
                with torch.random.fork_rng(devices=[]):
                    twin = _CLASSES[kind](layer)
            except NoTwinError as error:
                raise NoTwinError(f"{error} ({name})") from error
            known = found[id(layer)] = Replaced(name, twin.train(layer.training), before, trainable(twin))
        parent, _, own_name = name.rpartition(".")
        setattr(module.get_submodule(parent), own_name, known.twin)
    return list(found.values())


def circuits_of(module: nn.Module) -> dict[str, QuantumLayer]:
    """The layers in a module that are not part of a twin, by each of their names."""
    named = list(module.named_modules(remove_duplicate=False))
    twins = tuple(f"{name}." for name, part in named if isinstance(part, CircuitTwin))
    return {name: part for name, part in named if isinstance(part, QuantumLayer) and not name.startswith(twins)}


def other_circuits(module: nn.Module) -> list[str]:
    """Names and classes of the modules with circuits that are no :class:`QuantumLayer`."""
    from qiskit_machine_learning.connectors import TorchConnector

    return [
        f"{name} ({type(part).__name__})"
        for name, part in module.named_modules()
        if (isinstance(part, CircuitModule) and not isinstance(part, QuantumLayer) and _runs(part))
        or isinstance(part, TorchConnector)
    ]


def _runs(part: Any) -> bool:
    return getattr(part, "source", "circuit") == "circuit"  # the controls of a ScoreSeries have no circuit


def _check_shared(layers: dict[str, QuantumLayer], kind: LayerTwin) -> None:
    owners: dict[int, tuple[str, QuantumLayer]] = {}
    for name, layer in layers.items():
        for parameter in layer.parameters():
            other, owner = owners.setdefault(id(parameter), (name, layer))
            if owner is not layer:
                raise NoTwinError(
                    f"Invalid replace_circuits: {kind!r}; {name} and {other} are two layers that share their weights, "
                    "which twins would not: use one layer in both places"
                )
