"""Record a run of a comparison: curve, costs, hashes, and checks of its quantum parameters."""

import contextlib
import gc
import hashlib
import math
import pickle
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from lightning_qsgd.callbacks.parts import circuit_modules

DECAY = 0.99  # of the averaged weights, per step


class RunRecorder(L.Callback):
    """Records learning curve, costs, hashes, averaged weights and live checks of a run, also over resumptions.

    Attributes:
        curve, hashes: as in :class:`lightning_qsgd.comparison.results.Run`.
        parameter_digests: digests of the parameters' initial values, by name.
        seconds, evaluation_seconds: time of training and of evaluation so far.
        steps, examples: number of optimizer steps and of training examples so far.
        parameters: number of trainable parameters of the model.
        live: values that PerturbationMonitor logged, by name.
        quantum: checks of quantum parameters.
        averaged: exponentially averaged weights, float32 or float64, in the order of the module's parameters.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float | None]] = []
        self.hashes: dict[str, Any] = {"batches": [], "seeds": []}
        self.parameter_digests: dict[str, str] = {}
        self.seconds, self.evaluation_seconds = 0.0, 0.0
        self.steps, self.examples, self.parameters = 0, 0, 0
        self.live: dict[str, list[float]] = {}
        self.quantum = QuantumParameters()
        self.averaged: list[Tensor] = []
        self._batches, self._seeds, self._validation = b"", b"", hashlib.sha256()
        self._began: float | None = None
        self._state_before: bytes | None = None
        self._before_step: dict[str, Any] | None = None  # counts and digests before an incomplete step

    @property
    def curve(self) -> dict[str, list[float | None]]:
        """The curve by columns; None for a value that is missing or was not finite."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return {name: [row.get(name) for row in self.rows] for name in names}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the initial values."""
        if not self.parameter_digests:
            self.parameter_digests = {name: digest(raw(p)) for name, p in pl_module.named_parameters()}
            self.averaged = [_float(p).clone() for p in pl_module.parameters()]
        self.parameters = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
        self.quantum.begin(pl_module, trainer.optimizers)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Hash the batch, and record the generator's state before the module may seed it."""
        self._before_step = self._before_step or self._counts()
        self._batches = hashlib.sha256(self._batches + _bytes(batch)).digest()
        self._seed_before = torch.initial_seed()
        self._state_before = torch.get_rng_state().numpy().tobytes()
        self.examples += _length(batch)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Hash the seed of the batch, or the generator's state if it was not seeded. Only once: SAM calls it twice."""
        if self._state_before is not None:
            seed = torch.initial_seed()
            own = str(seed).encode() if seed != self._seed_before else self._state_before
            self._seeds, self._state_before = hashlib.sha256(self._seeds + own).digest(), None

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """Check the gradients of quantum parameters."""
        self.quantum.look()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average the weights after a step."""
        if trainer.global_step > self.steps:
            self.steps, self._before_step = trainer.global_step, None
            with torch.no_grad():
                weights = [_float(p) for p in pl_module.parameters()]
                torch._foreach_lerp_(self.averaged, weights, 1 - DECAY)  # type: ignore[attr-defined]

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the training clock."""
        self._stop()
        self._validation_began = time.perf_counter()

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Hash the validation data of the first validation."""
        if not trainer.sanity_checking and not self.rows and trainer.state.fn == "fit":
            self._validation.update(_bytes(batch))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add a row to the curve."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.evaluation_seconds += time.perf_counter() - self._validation_began
        if not self.rows:
            self.hashes["validation"] = self._validation.hexdigest()[:16]
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("train/")}
        row = {"epoch": trainer.current_epoch + 1, "step": self.steps, "examples": self.examples}
        row |= {"seconds": round(self.seconds, 3)} | metrics
        self.rows.append({k: float(f"{v:.6g}") if math.isfinite(v) else None for k, v in row.items()})
        self._began = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the epoch's mean training losses, and the hashes of all steps so far."""
        self._stop()
        self._before_step = None
        own: Sequence[str] = getattr(pl_module, "summary_metrics", ())
        for name in dict.fromkeys(("train/loss_epoch", *own)):
            mean = trainer.callback_metrics.get(name)
            if self.rows and mean is not None and math.isfinite(mean):
                self.rows[-1][name] = float(f"{float(mean):.6g}")
        self.hashes["batches"].append(self._batches.hex()[:16])
        self.hashes["seeds"].append(self._seeds.hex()[:16])

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete the checks of quantum parameters."""
        self.quantum.finish()

    def _stop(self) -> None:
        if self._began is not None:
            self.seconds += time.perf_counter() - self._began
            self._began = None

    def _counts(self) -> dict[str, Any]:
        live = {name: [*values] for name, values in self.live.items()}
        digests = {"batches": self._batches.hex(), "seeds": self._seeds.hex()}
        return {"examples": self.examples, "live": live, "digests": digests}

    def state_dict(self) -> dict[str, Any]:
        """The state after the last complete step, at which ExactResume saves."""
        running = 0.0 if self._began is None else time.perf_counter() - self._began
        names = ("rows", "hashes", "parameter_digests", "evaluation_seconds", "steps", "averaged")
        state = {name: getattr(self, name) for name in names} | (self._before_step or self._counts())
        return state | {"seconds": self.seconds + running, "quantum": self.quantum.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state that :meth:`state_dict` returned."""
        state = dict(state_dict)
        digests = state.pop("digests")
        self._batches, self._seeds = (bytes.fromhex(digests[name]) for name in ("batches", "seeds"))
        self.quantum.load_state_dict(state.pop("quantum"))
        for name, value in state.items():
            setattr(self, name, value)


class LiveLogger(Logger):
    """Passes values that are logged as ``quantum/...`` to a recorder."""

    def __init__(self, recorder: RunRecorder) -> None:
        super().__init__()
        self.recorder = recorder

    @property
    def name(self) -> str:
        """Empty, since the logger has no folder."""
        return ""

    @property
    def version(self) -> str:
        """Empty, since the logger has no folder."""
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record the statistics of the perturbation."""
        for name, value in metrics.items():
            kind, _, name = name.partition("/")
            if kind == "quantum" and "/" not in name:
                self.recorder.live.setdefault(name, []).append(float(value))


def digest(data: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 hash."""
    return hashlib.sha256(data).hexdigest()[:16]


def _float(p: Tensor) -> Tensor:
    return p.detach().to(torch.promote_types(p.dtype, torch.float32))


def _parts(batch: Any) -> list[Any]:
    """The tensors and plain values in a nested batch."""
    if isinstance(batch, Mapping):
        return [leaf for value in batch.values() for leaf in _parts(value)]
    if is_dataclass(batch) and not isinstance(batch, type):
        return _parts(vars(batch))
    return [leaf for part in batch for leaf in _parts(part)] if isinstance(batch, list | tuple) else [batch]


def raw(tensor: Tensor) -> bytes:
    """The bytes of a tensor's values."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _bytes(batch: Any) -> bytes:
    return b"".join(raw(part) if isinstance(part, Tensor) else pickle.dumps(part) for part in _parts(batch))


def _length(batch: Any) -> int:
    return next((len(part) for part in _parts(batch) if isinstance(part, Tensor) and part.dim()), 0)


def reset_peak() -> None:
    """Reset the system's record of this process's peak memory (on Linux)."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int | None:
    """Peak memory of this process since :func:`reset_peak`, in bytes: that of the GPU if it is used, else on Linux.

    It includes the modules that earlier runs of a worker imported. Returns None if the system does not report it.
    """
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


class QuantumParameters:
    """Checks that the parameters of a model's circuits are registered with an optimizer, have gradients, and move.

    Elements have names such as ``head.circuit.weights[3]``. An element is unobservable, and exempt, if no output of its
    circuit depends on it. That is so if its derivative, simulated exactly, is 0 for random inputs and weights, because
    a trigonometric polynomial that vanishes at random points vanishes everywhere.
    """

    def __init__(self) -> None:
        self._params: dict[str, nn.Parameter] = {}
        self._initial: dict[str, Tensor] = {}
        self._touched: dict[str, Tensor] = {}
        self._registered: set[int] = set()
        self._modules: dict[str, Any] = {}
        self.findings: dict[str, list[str]] = {}

    def begin(self, module: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Find the parameters, and keep observations from before a resumption."""
        self._modules = circuit_modules(module)
        trained = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
        for name, part in self._modules.items():
            for own, p in part.named_parameters():
                key = f"{name}.{own}" if name else own
                self._params[key] = p
                self._initial.setdefault(key, p.detach().clone())
                self._touched.setdefault(key, torch.zeros_like(p, dtype=torch.bool))
        self._registered = {id(p) for p in self._params.values() if id(p) in trained}

    def look(self) -> None:
        """Record which elements have a gradient."""
        for name, p in self._params.items():
            if p.grad is not None:
                self._touched[name] |= p.grad != 0

    def finish(self) -> None:
        """Set ``findings``: names of elements, or of a parameter if all of its elements are meant."""
        unobservable = {name: mask for name, mask in self._unobservable().items() if mask.any()}
        fixed = {name for name, p in self._params.items() if not p.requires_grad}
        found: dict[str, list[str]] = {"unregistered": [], "without_gradient": [], "unmoved": [], "unobservable": []}
        for name, p in self._params.items():
            if name in fixed:
                continue
            hidden = unobservable.get(name, torch.zeros_like(p, dtype=torch.bool))
            if id(p) not in self._registered:
                found["unregistered"].append(name)
            found["without_gradient"] += _elements(name, ~self._touched[name] & ~hidden)
            found["unmoved"] += _elements(name, (p.detach() == self._initial[name]) & ~hidden)
            found["unobservable"] += _elements(name, hidden)
        self.findings = found

    def summary(self) -> dict[str, Any]:
        """The number of tensors, and the findings; empty without circuits."""
        return {"quantum_parameters": len(self._params)} | self.findings if self._params else {}

    def _unobservable(self) -> dict[str, Tensor]:
        found = {}
        for name, part in self._modules.items():
            weights = getattr(part, "weights", None)
            if isinstance(weights, Tensor) and weights.numel() == part.ansatz.num_weights > 0:
                hidden = torch.stack([unobservable_weights(ansatz) for ansatz in part.measured]).all(0)
                found[f"{name}.weights" if name else "weights"] = hidden.view_as(weights)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Initial values, and which elements had a gradient so far."""
        return {"initial": self._initial, "touched": self._touched}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state that :meth:`state_dict` returned."""
        self._initial, self._touched = state["initial"], state["touched"]


def unobservable_weights(ansatz: Any, points: int = 8) -> Tensor:
    """Find the weights of a circuit that no outcome probability depends on.

    Args:
        ansatz: an :class:`lightning_qsgd.quantum.Ansatz` with weights.
        points: number of random inputs and weights to differentiate at, at least 1. Default: 8.

    Returns:
        A mask (weights,) bool, True for these weights.
    """
    from lightning_qsgd.quantum import CircuitSimulator

    generator = torch.Generator().manual_seed(0)
    simulator = CircuitSimulator(ansatz)
    largest = torch.zeros(ansatz.num_weights, dtype=torch.float64)
    for _ in range(points):
        inputs = 6.3 * torch.rand(1, ansatz.num_inputs, generator=generator, dtype=torch.float64)
        weights = 6.3 * torch.rand(ansatz.num_weights, generator=generator, dtype=torch.float64)
        derivative: Any = torch.autograd.functional.jacobian(lambda w, x=inputs: simulator(x, w)[0], weights)
        largest = torch.maximum(largest, derivative.abs().amax(0))
    return largest < 1e-12


def _elements(name: str, mask: Tensor) -> list[str]:
    if not mask.any():
        return []
    if mask.all():
        return [name]
    return [f"{name}[{', '.join(map(str, index))}]" for index in mask.nonzero().tolist()]
