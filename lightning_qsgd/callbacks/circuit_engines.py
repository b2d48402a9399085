"""CircuitEngines: where the circuits of a model's layers run, and what a step costs on a sampler."""

import warnings
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_qsgd.callbacks.parts import circuit_modules

_ENGINES = "circuit_engines"  # in checkpoints
_STATES = "circuit_states"


class CircuitEngines(L.Callback):
    """Print where the circuits of layers run, and on a sampler what a training step costs, before the first step ends.

    The cost is printed once the first forward pass of training has run its circuits, and before those of its gradients:
    circuits, shots, seconds, and on hardware QPU time. Checkpoints record the engines. A run that is resumed on others
    raises a warning, because its numbers may differ from those of an uninterrupted run.
    """

    def __init__(self) -> None:
        self._before: dict[str, str] = {}
        self._hooks: dict[str, Any] = {}

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Record the engine of each layer, and its extra state, which ModelParallelStrategy does not load."""
        if engines := engines_by_layer(pl_module):
            checkpoint[_ENGINES] = engines
            checkpoint[_STATES] = {name: part.get_extra_state() for name, part in circuit_modules(pl_module).items()}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the engines of the earlier run, and restore the extra state of each layer.

        Raises:
            ValueError: if a layer of the checkpoint has another circuit.
        """
        self._before = checkpoint.get(_ENGINES, {})
        layers, states = circuit_modules(pl_module), checkpoint.get(_STATES, {})
        for name in layers.keys() & states.keys():
            if error := layers[name].of_other_circuit(states[name]):
                raise ValueError(f"Invalid ckpt_path: {name}: {error}")
            layers[name].set_extra_state(states[name])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the engines, and compare them with those of the checkpoint."""
        engines = engines_by_layer(pl_module)
        if not engines:
            return
        layers = circuit_modules(pl_module)
        for text in dict.fromkeys(_told(layer.engine, pl_module.device) for layer in layers.values()):
            pl_module.print(f"Circuits of the model: {text}")
        if trainer.ckpt_path is not None:
            for name, engine in engines.items():
                if self._before.get(name, engine) != engine:
                    warnings.warn(
                        f"The circuit of {name} ran on {self._before[name]!r}, and now runs on {engine!r}: numbers may "
                        "differ from those of an uninterrupted run",
                        stacklevel=2,
                    )
        for name, layer in layers.items():
            if hasattr(layer, "circuits_for") and layer.circuits_for(1):
                self._hooks[name] = layer.register_forward_hook(partial(self._tell_cost, pl_module, name))

    def _tell_cost(
        self, pl_module: L.LightningModule, name: str, layer: Any, inputs: tuple[Tensor, ...], output: Tensor
    ) -> None:
        if not (torch.is_grad_enabled() and output.requires_grad):
            return
        self._hooks.pop(name).remove()
        rows = output.shape[:-1].numel()
        by_inputs, by_weights = any(x.requires_grad for x in inputs[:1]), layer.weights.requires_grad
        of = "both" if by_inputs and by_weights else "inputs" if by_inputs else "weights"
        forward, whole = layer.circuits_for(rows), layer.circuits_for(rows, of)
        shots = getattr(layer.engine.qnn, "shots", None)
        seconds = layer.seconds / max(layer.circuits, 1) * whole
        text = f"Cost of {name}: {rows} rows in a training step take {whole:,} circuits, {whole - forward:,} of them "
        text += f"for gradients{f', {whole * shots:,} shots' if shots else ''}, about {seconds:.2g} s"
        if (estimate := getattr(layer.engine.sampler, "qpu_seconds", None)) is not None:
            text += f"; estimated QPU time {estimate(layer.engine.qnn.circuit, whole) / 60:.1f} min"
        pl_module.print(
            f"{text}. Cheaper: few shots, also by epochs (ShotsByEpoch); gradients by SPSA, with 2 circuits a row "
            "(SPSANetwork; in a QuantumHead gradients: spsa); or train on the simulator and evaluate on the sampler"
        )


class ShotsByEpoch(L.Callback):
    """Train with other numbers of shots in other epochs; validation and tests use the sampler's own.

    Few shots are often enough at the beginning: gradients from one shot per circuit are unbiased.

    Args:
        shots: shots per circuit from an epoch on, such as ``{0: 8, 5: 64, 20: 1024}``. It must have epoch 0.

    Raises:
        ValueError: if a number is invalid; at the start of training, if no layer has a sampler with shots.
    """

    def __init__(self, shots: dict[int, int]) -> None:
        self.shots = {int(epoch): int(number) for epoch, number in shots.items()}
        if 0 not in self.shots or min(self.shots) < 0 or min(self.shots.values()) < 1:
            raise ValueError(
                f"Invalid shots: {shots}; it must give at least 1 shot from epoch 0 on, such as {{0: 8, 5: 64}}"
            )
        self._own: list[tuple[Any, int]] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the shots of this epoch, unless that is done."""
        if self._own:
            return
        samplers = {id(s): s for s in map(_sampler, circuit_modules(pl_module).values()) if s is not None}
        if not samplers:
            raise ValueError("ShotsByEpoch needs a layer whose circuits run on a sampler with shots")
        self._own = [(sampler, sampler.shots) for sampler in samplers.values()]
        epoch = max(start for start in self.shots if start <= trainer.current_epoch)
        for sampler, _ in self._own:
            sampler.shots = self.shots[epoch]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Return to the samplers' own shots."""
        self._restore()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Return to the samplers' own shots."""
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Return to the samplers' own shots."""
        self._restore()

    def _restore(self) -> None:
        while self._own:
            sampler, shots = self._own.pop()
            sampler.shots = shots


def engines_by_layer(module: nn.Module) -> dict[str, str]:
    """The engine of each layer with a circuit: "native", "torch", or the class of its sampler."""
    engines = {name: layer.engine for name, layer in circuit_modules(module).items()}
    return {name: getattr(e, "engine", None) or type(e.sampler).__name__ for name, e in engines.items()}


def _told(engine: Any, device: torch.device) -> str:
    """Where circuits run, and why."""
    from lightning_qsgd.quantum import CircuitSimulator
    from lightning_qsgd.quantum.samplers import described
    from lightning_qsgd.quantum.simulator import has_numba

    if not isinstance(engine, CircuitSimulator):
        return f"on {described(engine.sampler)}"
    kind = "exact" if type(engine) is CircuitSimulator else "with random Pauli errors"
    if engine.runs_native_on(device):
        return f"{kind}, on the native engine (compiled by numba for the CPU, at its first use on a machine in seconds)"
    why = f"on {device.type}" if device.type != "cpu" else "on the CPU"
    if engine.engine == "torch" and device.type == "cpu" and not has_numba():
        why += "; pip install 'lightning-qsgd[fast]' for the faster native engine"
    return f"{kind}, on the torch engine {why}"


def _sampler(layer: Any) -> Any:
    """The sampler whose ``shots`` can be set, or None."""
    from lightning_qsgd.quantum.samplers import wrapped

    samplers = wrapped(getattr(layer.engine, "sampler", None))
    return next((sampler for sampler in samplers if isinstance(getattr(sampler, "shots", None), int)), None)
