"""The words for the classical twins of circuit layers; see quantum/layer_twins.py. Level -1: nothing is imported."""

from typing import Literal, get_args

LayerTwin = Literal["untrained", "product", "linear", "tanh", "mlp", "fitted_series", "bypass", "shuffled_inputs"]
LAYER_TWINS: tuple[LayerTwin, ...] = get_args(LayerTwin)

#: What each twin is, for help and reports.
MEANINGS: dict[LayerTwin, str] = {
    "untrained": "the same circuit with its initial weights, frozen",
    "product": "the circuit without its gates on two or more qubits",
    "linear": "a linear map of the same width",
    "tanh": "a linear map of the same width, and tanh",
    "mlp": "two linear maps with tanh between them, with as many parameters as the circuit, as closely as possible",
    "fitted_series": "a Fourier series with the circuit's frequencies, fitted to the circuit and then trained",
    "bypass": "the layer's inputs themselves, without parameters",
    "shuffled_inputs": "the same trained circuit, which gets the inputs of other rows of the batch",
}


class NoTwinError(ValueError):
    """A model's circuits cannot be replaced by the twin that was asked for."""
