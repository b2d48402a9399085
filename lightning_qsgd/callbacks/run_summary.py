"""RunSummary: the results of a finished run in one file."""

import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.table import Column, Table

from lightning_qsgd.callbacks.finite_steps import FiniteSteps
from lightning_qsgd.callbacks.parts import callbacks_of, circuit_modules, superpositional
from lightning_qsgd.callbacks.time_to_target import TimeToTarget
from lightning_qsgd.callbacks.weights_from import WeightsFrom
from lightning_qsgd.files import write_json
from lightning_qsgd.optim import (
    CircuitPerturbation,
    Perturbation,
    SuperpositionalGradientDescent,
    TwinPerturbation,
)

SUMMARY = "summary.json"
_SECONDS = "circuit_seconds"  # in checkpoints


class RunSummary(L.Callback):
    """Write ``summary.json`` into the run folder at the end of fit, on rank 0.

    Requires :class:`TimeToTarget` and :class:`FiniteSteps`, which every run of the commands has.
    """

    def __init__(self) -> None:
        self._circuit_seconds = 0.0  # before the run was resumed

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save how long circuits took; the optimizer's state has no times."""
        checkpoint[_SECONDS] = self._circuit_seconds + count_circuits(pl_module, superpositional(trainer.optimizers))[2]

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Load how long circuits took."""
        self._circuit_seconds = checkpoint.get(_SECONDS, 0.0)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the summary."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            summary = summarize(trainer, pl_module, self._circuit_seconds)
            write_json(Path(trainer.default_root_dir) / SUMMARY, summary)


def summarize(trainer: L.Trainer, module: L.LightningModule, seconds_before: float = 0.0) -> dict[str, Any]:
    """Summarize a finished run: metric, the module's ``summary_metrics``, cost, circuits and paths.

    Args:
        trainer: the trainer, with its callbacks and optimizers.
        module: the trained module.
        seconds_before: seconds that circuits took before the run was resumed.
    """
    clock = callbacks_of(trainer, TimeToTarget)[0]
    ours = superpositional(trainer.optimizers)
    best_path = next((c.best_model_path for c in callbacks_of(trainer, ModelCheckpoint)), None)
    circuits, shots, seconds = count_circuits(module, ours)
    wanted = [name for name in getattr(module, "summary_metrics", ()) if name in trainer.callback_metrics]
    return {
        **(_of_history(clock) if clock.history else {}),
        **{name: round(float(trainer.callback_metrics[name]), 6) for name in wanted},
        **({f"epochs to {clock.target:.2f}": clock.epochs} if clock.history and clock.target is not None else {}),
        "epochs": trainer.current_epoch,
        "skipped_steps": callbacks_of(trainer, FiniteSteps)[0].skipped,
        "training_seconds": round(clock.elapsed, 1),
        "engines": engines_of(module, ours),
        "circuits": circuits,
        "shots": shots,
        "circuit_seconds": round(seconds_before + seconds, 2),
        "fallback_steps": ours.perturbation.fallback_steps if ours else 0,
        "peak_memory_GB": round(peak_memory(), 2),
        "torch_threads": torch.get_num_threads(),
        "best_checkpoint": best_path or None,
        "weights_from": next((str(c.path) for c in callbacks_of(trainer, WeightsFrom)), None),
        "run_folder": str(trainer.default_root_dir),
    }


def _of_history(clock: TimeToTarget) -> dict[str, float]:
    last = clock.history[-3:]  # with a constant learning rate single epochs differ by points
    best = max if clock.mode == "max" else min
    return {
        f"{clock.metric} final": round(last[-1], 4),
        f"{clock.metric} mean of last {len(last)}": round(sum(last) / len(last), 4),
        f"{clock.metric} best": round(best(clock.history), 4),
    }


def summary_table(folder: Path) -> Table:
    """The summary in a run folder as a table, without circuits if none ran."""
    summary = json.loads((folder / SUMMARY).read_text())
    if summary["weights_from"] is None:
        del summary["weights_from"]
    summary["engines"] = "; ".join(map(told_engine, summary["engines"]))
    if not summary["circuits"]:
        unused = ("engines", "circuits", "shots", "circuit_seconds", "fallback_steps")
        summary = {name: value for name, value in summary.items() if name not in unused or value}
    table = Table("", Column(overflow="fold"), title="Summary", show_header=False, title_justify="left")
    for name, value in summary.items():
        table.add_row(name.replace("_", " "), "-" if value is None else str(value))
    return table


def count_circuits(
    model: torch.nn.Module, optimizer: SuperpositionalGradientDescent | None = None
) -> tuple[int, int, float]:
    """Circuits, shots and seconds in circuits so far, of the optimizer and of each network of a model's layers."""
    counting = that_count(model, optimizer)
    circuits, shots, seconds = ([getattr(part, name) for part in counting] for name in ("circuits", "shots", "seconds"))
    return sum(circuits), sum(shots), float(sum(seconds))


def that_count(model: torch.nn.Module, optimizer: SuperpositionalGradientDescent | None) -> list[Any]:
    """The objects that count circuits: the perturbation, a displacement's circuit, each network of a model's layers."""
    counting: list[Any] = []
    if optimizer is not None:
        circuit = None if optimizer.displacement is None else optimizer.displacement.circuit
        counting += [optimizer.perturbation] + ([] if circuit in (None, optimizer.perturbation) else [circuit])
    if "lightning_qsgd.quantum" in sys.modules:  # a classical run never pays for qiskit
        from lightning_qsgd.quantum import QuantumNetwork

        engines = {id(m.engine): m.engine for m in circuit_modules(model).values()}
        counting += [engine for engine in engines.values() if isinstance(engine, QuantumNetwork)]
    return counting


def engines_of(model: torch.nn.Module, optimizer: SuperpositionalGradientDescent | None = None) -> list[dict[str, Any]]:
    """The engines that run the circuits of a model's layers and of the optimizer, each once.

    Returns:
        Dicts with ``part`` ("model" or "optimizer"), ``engine`` (class name), ``device`` (None: no transpilation for a
        device), ``shots`` of each circuit (None: exact) and ``circuits`` so far (None: the simulator does not count).
    """
    if "lightning_qsgd.quantum" not in sys.modules:  # a classical run never pays for qiskit
        return []
    from lightning_qsgd.quantum import CircuitSimulator

    found = []
    for engine in {id(m.engine): m.engine for m in circuit_modules(model).values()}.values():
        simulated = isinstance(engine, CircuitSimulator)
        found.append({"part": "model"} | (_simulator(engine) if simulated else _network(engine, engine.circuits)))
    circuit = optimizer and circuit_of(optimizer.perturbation)
    if circuit and circuit.circuits:
        found.append({"part": "optimizer"} | _network(circuit.network, circuit.circuits))
    places: dict[tuple[Any, ...], dict[str, Any]] = {}
    for each in found:
        same = places.setdefault(tuple(each[name] for name in ("part", "engine", "device", "shots")), each)
        if same is not each and each["circuits"] is not None:
            same["circuits"] += each["circuits"]
    return list(places.values())


def _simulator(engine: Any) -> dict[str, Any]:
    return {"engine": f"{type(engine).__name__} ({engine.engine})", "device": None, "shots": None, "circuits": None}


def _network(network: Any, circuits: int) -> dict[str, Any]:
    from lightning_qsgd.quantum.samplers import backend_of

    device = getattr(backend_of(network.sampler), "name", None)
    engine = type(network.sampler).__name__
    return {"engine": engine, "device": device, "shots": network.qnn.shots, "circuits": circuits}


def circuit_of(perturbation: Perturbation) -> CircuitPerturbation | None:
    """The circuit of a perturbation or of the reference of a classical twin, or None."""
    inner: Any = perturbation
    while isinstance(inner, TwinPerturbation):
        inner = inner.reference
    return inner if isinstance(inner, CircuitPerturbation) else None


def told_engine(engine: Mapping[str, Any]) -> str:
    """An engine in words: "AerSampler on aer_simulator, 1024 shots, 3200 circuits (model)"."""
    device = f" on {engine['device']}" if engine["device"] else ""
    shots = "exact" if engine["shots"] is None else f"{engine['shots']} shots"
    circuits = "" if engine["circuits"] is None else f", {engine['circuits']} circuits"
    return f"{engine['engine']}{device}, {shots}{circuits} ({engine['part']})"


def peak_memory() -> float:
    """Peak resident memory of this process in GB (1e9 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
