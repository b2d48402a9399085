"""RunSummary: the numbers of a finished run in one file."""

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
from lightning_qsgd.callbacks.parts import callbacks_of, superpositional
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
    """Writes ``summary.json`` into the run folder at the end of fit, from the process that trained as rank 0.

    Needs :class:`TimeToTarget` and :class:`FiniteSteps` among the callbacks, as every run of the commands has them.
    """

    def __init__(self) -> None:
        self._circuit_seconds = 0.0  # before the run was resumed

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep how long circuits took: the optimizer's state holds no times."""
        checkpoint[_SECONDS] = self._circuit_seconds + count_circuits(pl_module, superpositional(trainer.optimizers))[2]

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take it over."""
        self._circuit_seconds = checkpoint.get(_SECONDS, 0.0)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write it."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            summary = summarize(trainer, pl_module, self._circuit_seconds)
            write_json(Path(trainer.default_root_dir) / SUMMARY, summary)


def summarize(trainer: L.Trainer, module: L.LightningModule, seconds_before: float = 0.0) -> dict[str, Any]:
    """Plain numbers of a finished run: metric, the module's ``summary_metrics``, cost, circuits, places.

    Args:
        trainer: with its callbacks and optimizers.
        module: what it trained.
        seconds_before: what circuits took before the run was resumed.
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
    last = clock.history[-3:]  # at a constant learning rate single epochs jump by points
    best = max if clock.mode == "max" else min
    return {
        f"{clock.metric} final": round(last[-1], 4),
        f"{clock.metric} mean of last {len(last)}": round(sum(last) / len(last), 4),
        f"{clock.metric} best": round(best(clock.history), 4),
    }


def summary_table(folder: Path) -> Table:
    """The summary in a run folder, for printing; where no circuit ran, without its numbers of circuits."""
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
    """Circuits, shots and seconds in them, of the optimizer and of each network behind a model's layers."""
    counting = that_count(model, optimizer)
    circuits, shots, seconds = ([getattr(part, name) for part in counting] for name in ("circuits", "shots", "seconds"))
    return sum(circuits), sum(shots), float(sum(seconds))


def that_count(model: torch.nn.Module, optimizer: SuperpositionalGradientDescent | None) -> list[Any]:
    """What counts circuits: the perturbation first, a displacement's circuit, each network behind a model's layers."""
    counting: list[Any] = []
    if optimizer is not None:
        circuit = None if optimizer.displacement is None else optimizer.displacement.circuit
        counting += [optimizer.perturbation] + ([] if circuit in (None, optimizer.perturbation) else [circuit])
    if "lightning_qsgd.quantum" in sys.modules:  # a classical run never pays for qiskit
        from lightning_qsgd.quantum import QuantumNetwork
        from lightning_qsgd.quantum.layer import CircuitModule

        engines = {id(m.engine): m.engine for m in model.modules() if isinstance(m, CircuitModule)}
        counting += [engine for engine in engines.values() if isinstance(engine, QuantumNetwork)]
    return counting


def engines_of(model: torch.nn.Module, optimizer: SuperpositionalGradientDescent | None = None) -> list[dict[str, Any]]:
    """Where the circuits of a model's layers and of the optimizer run, each place once.

    Returns:
        Dicts of ``part`` ("model" or "optimizer"), ``engine`` (a class), ``device`` (None: any circuit as it is),
        ``shots`` of each circuit (None: exact) and ``circuits`` run so far (None: the simulator does not count them).
    """
    if "lightning_qsgd.quantum" not in sys.modules:  # a classical run never pays for qiskit
        return []
    from lightning_qsgd.quantum import CircuitSimulator
    from lightning_qsgd.quantum.layer import CircuitModule

    found = []
    for engine in {id(m.engine): m.engine for m in model.modules() if isinstance(m, CircuitModule)}.values():
        simulated = isinstance(engine, CircuitSimulator)
        found.append({"part": "model"} | (_SIMULATOR if simulated else _network(engine, engine.circuits)))
    circuit = optimizer and circuit_of(optimizer.perturbation)
    if circuit and circuit.circuits:
        found.append({"part": "optimizer"} | _network(circuit.network, circuit.circuits))
    places: dict[tuple[Any, ...], dict[str, Any]] = {}
    for each in found:
        same = places.setdefault(tuple(each[name] for name in ("part", "engine", "device", "shots")), each)
        if same is not each and each["circuits"] is not None:
            same["circuits"] += each["circuits"]
    return list(places.values())


_SIMULATOR = {"engine": "CircuitSimulator", "device": None, "shots": None, "circuits": None}


def _network(network: Any, circuits: int) -> dict[str, Any]:
    from lightning_qsgd.quantum.samplers import backend_of

    device = getattr(backend_of(network.sampler), "name", None)
    engine = type(network.sampler).__name__
    return {"engine": engine, "device": device, "shots": network.qnn.shots, "circuits": circuits}


def circuit_of(perturbation: Perturbation) -> CircuitPerturbation | None:
    """The circuit behind a perturbation or its classical twin; None where there is none."""
    inner: Any = perturbation
    while isinstance(inner, TwinPerturbation):
        inner = inner.reference
    return inner if isinstance(inner, CircuitPerturbation) else None


def told_engine(engine: Mapping[str, Any]) -> str:
    """As "AerSampler on aer_simulator, 1024 shots, 3200 circuits (model)"."""
    device = f" on {engine['device']}" if engine["device"] else ""
    shots = "exact" if engine["shots"] is None else f"{engine['shots']} shots"
    circuits = "" if engine["circuits"] is None else f", {engine['circuits']} circuits"
    return f"{engine['engine']}{device}, {shots}{circuits} ({engine['part']})"


def peak_memory() -> float:
    """Peak resident memory of this process so far, in GB (1e9 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
