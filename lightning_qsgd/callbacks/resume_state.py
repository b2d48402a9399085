"""Where a training run stands between two optimizer steps, and how to stand there again."""

from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.fabric.utilities.data import _set_sampler_epoch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import IterableDataset
from torchmetrics import Metric

from lightning_qsgd.callbacks.random_states import OwnGenerator, State, get_states, own_generators, set_states
from lightning_qsgd.callbacks.running_means import find_metrics, get_sums

Position = dict[str, Any]


def loader_of(trainer: L.Trainer) -> Any:
    """The ``CombinedLoader`` of training; None before it is there."""
    return trainer.fit_loop._combined_loader


def fetcher_of(trainer: L.Trainer) -> Any:
    """What fetches its batches."""
    return trainer.fit_loop._data_fetcher


def may_start_again(trainer: L.Trainer) -> bool:
    """Whether the loader has to be started again: Lightning did so before the generators of this epoch were known.

    That is so in a process's first epoch. A stream is left alone in a new run: its first batch is gone.
    """
    loop = trainer.fit_loop
    stream = any(isinstance(getattr(part, "dataset", None), IterableDataset) for part in loader_of(trainer).flattened)
    return loop.is_resuming or loop.restarting or (trainer.current_epoch == 0 and not stream)


class Watched(NamedTuple):
    """What a process's position consists of, beside the global generators and Lightning's counters.

    Attributes:
        metrics: torchmetrics of the module, by their place.
        tensors: weights and buffers.
        own: generators of the training loader.
        counting: modules whose extra state, a tensor, moves with each call: circuits on a sampler.
        device: of the module.
    """

    metrics: dict[str, Metric]
    tensors: list[Tensor]
    own: list[OwnGenerator]
    counting: list[Module]
    device: torch.device

    @classmethod
    def of(cls, trainer: L.Trainer, module: L.LightningModule) -> "Watched":
        """Those of a run, once its training loader is there."""
        tensors = [*module.parameters(), *module.buffers()]
        extra = (part for part in module.modules() if type(part).get_extra_state is not Module.get_extra_state)
        counting = [part for part in extra if isinstance(part.get_extra_state(), Tensor)]
        return cls(find_metrics(module), tensors, own_generators(loader_of(trainer)), counting, module.device)

    def generators(self) -> State:
        """States of all generators now."""
        return get_states(self.device, self.own)

    def set_generators(self, states: State) -> None:
        """Put them back."""
        set_states(states, self.device, self.own)

    def versions(self) -> list[Any]:
        """What every change of a tensor, and every call of a module that counts, changes."""
        return [
            *(tensor._version for tensor in self.tensors),
            *(part.get_extra_state().tolist() for part in self.counting),
        ]

    def position(self, trainer: L.Trainer) -> Position:
        """Counters, generators, sums and versions of this process now."""
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
        """Start the training loader as at the beginning of its epoch, and drop the batches that are done.

        Args:
            trainer: the run's.
            done: number of these batches, at least 1.
            epoch_start: generators at the beginning.
            last_fetch: generators from which a loader without a length, which is one batch ahead, fetched that one.
        """
        self.set_generators(epoch_start)
        epoch: Any = trainer.fit_loop.epoch_progress.current
        for loader in loader_of(trainer).flattened:
            _set_sampler_epoch(loader, epoch.processed)  # Lightning does so later
        fetcher = iter(fetcher_of(trainer))
        for i in range(done):
            if i == done - 1 and fetcher.length is None:
                self.set_generators(last_fetch)
            next(fetcher)
        fetcher.fetched -= done  # Lightning adds them


def put_counters_right(loops: dict[str, Any], here: Position, in_epoch: bool) -> None:
    """Make Lightning's counters in a checkpoint those that its own resumption understands.

    Args:
        loops: the state of its fit loop, changed in place.
        here: of the checkpoint.
        in_epoch: whether an epoch has begun, and goes on; else the run is between two epochs.
    """
    epochs, progress = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    progress["is_last_batch"] = False
    for name, done in zip(("current", "total"), here["batches"], strict=True):
        progress[name] = dict.fromkeys(progress[name], done if in_epoch or name == "total" else 0)
        epoch = epochs[name]
        if not in_epoch:
            epoch["ready"] = epoch["completed"]
        elif epoch["completed"] == epoch["started"]:  # stopped by max_steps: Lightning counts the epoch as done
            epoch |= {"processed": epoch["processed"] - 1, "completed": epoch["completed"] - 1}

    optimizer = loops["epoch_loop.automatic_optimization.optim_progress"][
        "optimizer"
    ]  # calls of a step that failed too
    for name, zeroed in zip(("current", "total"), here["zeroed"], strict=True):
        optimizer["step"][name] = dict.fromkeys(optimizer["step"][name], optimizer["step"][name]["completed"])
        optimizer["zero_grad"][name] = dict.fromkeys(optimizer["zero_grad"][name], zeroed)
