"""What Lightning does not save of a run between two optimizer steps: position, generators, and sums of the epoch."""

import random
from collections.abc import Iterable
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from torchmetrics import Metric

Position = dict[str, Any]
State = dict[str, Any]
Sums = dict[str, dict[str, Any]]
OwnGenerator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
_DTYPE = "numpy dtype"


def loader_of(trainer: L.Trainer) -> Any:
    """The ``CombinedLoader`` of training, or None before it exists."""
    return trainer.fit_loop._combined_loader


def fetcher_of(trainer: L.Trainer) -> Any:
    """The fetcher of its batches."""
    return trainer.fit_loop._data_fetcher


def may_start_again(trainer: L.Trainer) -> bool:
    """Whether the loader must be restarted: Lightning started it before the generators of the epoch were known.

    This holds in the first epoch of a process. In a new run a stream is not restarted, because its first batch is gone.
    """
    loop = trainer.fit_loop
    stream = any(isinstance(getattr(part, "dataset", None), IterableDataset) for part in loader_of(trainer).flattened)
    return loop.is_resuming or loop.restarting or (trainer.current_epoch == 0 and not stream)


class Watched(NamedTuple):
    """The parts of a process's position other than the global generators and Lightning's counters.

    Attributes:
        metrics: torchmetrics of the module by path.
        tensors: weights and buffers.
        own: generators of the training loader.
        counting: modules whose extra state, a tensor, changes with each call: circuits on a sampler.
        device: device of the module.
    """

    metrics: dict[str, Metric]
    tensors: list[Tensor]
    own: list[OwnGenerator]
    counting: list[Module]
    device: torch.device

    @classmethod
    def of(cls, trainer: L.Trainer, module: L.LightningModule) -> "Watched":
        """Those of a run that has its training loader."""
        tensors = [*module.parameters(), *module.buffers()]
        extra = (part for part in module.modules() if type(part).get_extra_state is not Module.get_extra_state)
        counting = [part for part in extra if isinstance(part.get_extra_state(), Tensor)]
        return cls(find_metrics(module), tensors, own_generators(loader_of(trainer)), counting, module.device)

    def generators(self) -> State:
        """The states of all generators."""
        return get_states(self.device, self.own)

    def set_generators(self, states: State) -> None:
        """Restore them."""
        set_states(states, self.device, self.own)

    def versions(self) -> list[Any]:
        """Values that change with every change of a tensor and every call of a counting module."""
        return [
            *(tensor._version for tensor in self.tensors),
            *(part.get_extra_state().tolist() for part in self.counting),
        ]

    def position(self, trainer: L.Trainer) -> Position:
        """Counters, generators, sums and versions of this process."""
        loop = trainer.fit_loop.epoch_loop
        zeroed = loop.automatic_optimization.optim_progress.optimizer.zero_grad
        return {
            "step": trainer.global_step,
            "zeroed": (zeroed.current.completed, zeroed.total.completed),
            "batches": (loop.batch_progress.current.completed, loop.batch_progress.total.completed),
            "stepped": loop._batches_that_stepped,
            "generators": self.generators(),
            "sums": get_sums(trainer, self.metrics),
            "versions": self.versions(),
        }

    def restart_loader(self, trainer: L.Trainer, done: int, epoch_start: State, last_fetch: State) -> None:
        """Start the training loader as at the beginning of its epoch, and drop the finished batches.

        Args:
            trainer: the trainer of the run.
            done: number of finished batches, at least 1.
            epoch_start: generators at the beginning of the epoch.
            last_fetch: generators before the last fetch of a loader without length, which fetches one batch ahead.
        """
        self.set_generators(epoch_start)
        epoch: Any = trainer.fit_loop.epoch_progress.current
        for loader in loader_of(trainer).flattened:
            _set_sampler_epoch(loader, epoch.processed)  # Lightning does it later
        fetcher = iter(fetcher_of(trainer))
        for i in range(done):
            if i == done - 1 and fetcher.length is None:
                self.set_generators(last_fetch)
            next(fetcher)
        fetcher.fetched -= done  # Lightning adds them


def put_counters_right(loops: dict[str, Any], here: Position, in_epoch: bool) -> None:
    """Correct Lightning's counters in a checkpoint, so that Lightning resumes from them.

    Args:
        loops: state of the fit loop, changed in place.
        here: position of the checkpoint.
        in_epoch: whether the run is within an epoch; otherwise it is between two epochs.
    """
    epochs, progress = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    progress["is_last_batch"] = False
    for name, done in zip(("current", "total"), here["batches"], strict=True):
        progress[name] = dict.fromkeys(progress[name], done if in_epoch or name == "total" else 0)
        epoch = epochs[name]
        if not in_epoch:
            epoch["ready"] = epoch["completed"]
        elif epoch["completed"] == epoch["started"]:  # stopped by max_steps: Lightning counts the epoch as completed
            epoch |= {"processed": epoch["processed"] - 1, "completed": epoch["completed"] - 1}

    optimizer = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    # Calls in a step that failed are counted too.
    for name, zeroed in zip(("current", "total"), here["zeroed"], strict=True):
        optimizer["step"][name] = dict.fromkeys(optimizer["step"][name], optimizer["step"][name]["completed"])
        optimizer["zero_grad"][name] = dict.fromkeys(optimizer["zero_grad"][name], zeroed)


# ---- generators of random numbers in this process


def get_states(device: torch.device, own: Iterable[OwnGenerator] = ()) -> State:
    """The states of the global generators of Python, NumPy and torch, and of some others.

    Args:
        device: device of the model; the generator of a CUDA device is included.
        own: other generators, always in the same order.
    """
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "own": [_get(generator) for generator in own],
    }


def pack(states: Any) -> Any:
    """Replace the NumPy arrays in states from :func:`get_states`, so that they load with ``weights_only=True``."""
    if isinstance(states, np.ndarray):
        return {_DTYPE: str(states.dtype), "bytes": torch.from_numpy(np.frombuffer(states.tobytes(), np.uint8).copy())}
    if isinstance(states, dict):
        return {name: pack(value) for name, value in states.items()}
    return type(states)(map(pack, states)) if isinstance(states, list | tuple) else states


def unpack(packed: Any) -> Any:
    """Undo :func:`pack`."""
    if isinstance(packed, dict):
        if _DTYPE in packed:
            return np.frombuffer(packed["bytes"].numpy().tobytes(), packed[_DTYPE])
        return {name: unpack(value) for name, value in packed.items()}
    return type(packed)(map(unpack, packed)) if isinstance(packed, list | tuple) else packed


def set_states(states: State, device: torch.device, own: Iterable[OwnGenerator] = ()) -> None:
    """Restore states from :func:`get_states`; generators that it did not see are unchanged."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"].cpu())
    if device.type == "cuda" and isinstance(states["cuda"], Tensor):
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
    for generator, state in zip(own, states["own"], strict=False):
        _set(generator, state)


def own_generators(loader: CombinedLoader) -> list[OwnGenerator]:
    """The generators that loaders, samplers and datasets have as attributes, each once and always in the same order.

    Lists, tuples and dicts of at most 100 elements are searched, other objects such as transforms are not.
    """
    found: dict[int, OwnGenerator] = {}
    seen: set[int] = set()

    def walk(part: Any) -> None:
        if isinstance(part, OwnGenerator):
            found[id(part)] = part
        elif isinstance(part, DataLoader | Sampler | Dataset) and id(part) not in seen:
            seen.add(id(part))
            for value in list(vars(part).values()):
                walk(value)
        elif isinstance(part, list | tuple | dict) and len(part) <= 100:
            for value in part.values() if isinstance(part, dict) else part:
                walk(value)

    for part in loader.flattened:
        walk(part)
    return list(found.values())


def _get(generator: OwnGenerator) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state()


def _set(generator: OwnGenerator, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


# ---- sums of an epoch so far, with which a resumed epoch ends with the means of the whole epoch


def get_sums(trainer: L.Trainer, metrics: dict[str, Metric]) -> Sums:
    """Sums and counts of this process: those of updated metrics and of ``self.log(..., on_epoch=True)``.

    Returns:
        metrics: states and number of updates by name. logged: value, number of samples and options of each log by
        Lightning's key. All are tensors and plain values.
    """
    updated = {}
    for name, metric in metrics.items():
        if metric.update_count:
            states = {state: _copied(value) for state, value in metric.metric_state.items()}
            updated[name] = {"states": states, "updates": metric.update_count}
    logged = {}
    for key, result in _epoch_results(trainer).items():
        meta = result.meta
        logged[key] = {
            "value": _copied(result.value),
            "count": _copied(getattr(result, "cumulated_batch_size", None)),
            "reduce": next((name for name in ("sum", "max", "min") if getattr(meta, f"is_{name}_reduction")), "mean"),
            "name": f"{meta.name}_epoch" if meta.on_step else meta.name,
            "options": {"prog_bar": meta.prog_bar, "logger": meta.logger, "sync_dist": meta.sync.should},
        }
    return {"metrics": updated, "logged": logged}


def set_metrics(sums: Sums, metrics: dict[str, Metric]) -> None:
    """Restore the states of metrics from :func:`get_sums`; other metrics are reset."""
    for name, metric in metrics.items():
        metric.reset()
        if (saved := sums["metrics"].get(name)) is None:
            continue
        for state, value in saved["states"].items():
            setattr(metric, state, _moved(value, metric.device))
        metric._update_count = saved["updates"]  # no public way exists


def add_logged(logged: dict[str, Any], trainer: L.Trainer) -> None:
    """Add logged sums from :func:`get_sums` to those of the resumed epoch, and remove them from ``logged``."""
    for key, result in _epoch_results(trainer).items():
        if (saved := logged.pop(key, None)) is None:
            continue
        value, count = _moved(saved["value"], result.value.device), _moved(saved["count"], result.value.device)
        if result.meta.is_mean_reduction or result.meta.is_sum_reduction:
            result.value = value + result.value
        else:  # minimum, maximum
            result.value = result.meta.reduce_fx(value, result.value)
        if count is not None:
            result.cumulated_batch_size = count + result.cumulated_batch_size


def log_rest(logged: dict[str, Any], module: L.LightningModule) -> None:
    """Log, at the end of a resumed epoch, what this process logged in it only before the checkpoint."""
    for saved in logged.values():
        value = saved["value"] if saved["count"] is None else saved["value"] / saved["count"]
        module.log(saved["name"], value, reduce_fx=saved["reduce"], **saved["options"])
    logged.clear()


def find_metrics(module: L.LightningModule) -> dict[str, Metric]:
    """The torchmetrics in a module by path."""
    return {name: part for name, part in module.named_modules() if isinstance(part, Metric)}


def _epoch_results(trainer: L.Trainer) -> dict[str, Any]:
    """Lightning's running means, without torchmetrics and values of single steps."""
    results = trainer.fit_loop.epoch_loop._results
    return {
        k: result for k, result in results.items() if result.is_tensor and result.meta.on_epoch and not result.has_reset
    }


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return list(value) if isinstance(value, list) else value  # entries of lists are appended, never changed


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return [_moved(part, device) for part in value] if isinstance(value, list) else value
