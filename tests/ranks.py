"""Callbacks for tests of the command line."""

import os
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning_utilities.core.rank_zero import rank_zero_only


class SaveRanks(L.Callback):
    """Saves each rank's weights, circuit count and whether it ran circuits itself into the run folder."""

    def on_train_end(self, trainer, pl_module):
        perturbation = trainer.optimizers[0].perturbation
        state = {"weights": pl_module.state_dict(), "circuits": perturbation.circuits}
        state["ran"] = perturbation._network is not None
        torch.save(state, Path(trainer.log_dir) / f"rank{trainer.global_rank}.pt")


class FailAfterCheckpoint(L.Callback):
    """Fails before the first step, once a checkpoint lies in the run folder."""

    def on_train_batch_start(self, trainer, *_):
        trainer.save_checkpoint(Path(trainer.log_dir) / "checkpoints" / "last.ckpt")
        raise RuntimeError("on purpose")


class SaveDisplacedWeights(L.Callback):
    """Saves each rank's weights in the forward pass of the second batch, as displaced."""

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        if trainer.global_step == 1:
            assert trainer.optimizers[0].displacement.active
            torch.save(pl_module.state_dict(), Path(trainer.log_dir) / f"displaced{trainer.global_rank}.pt")


class Float16OnCpu(MixedPrecision):
    """16-mixed with its GradScaler, where there is no GPU."""

    def __init__(self):
        super().__init__("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10))


class InfiniteGradient(L.Callback):
    """Makes one gradient infinite in the second batch of the first epoch, as an overflow in float16 does."""

    def on_after_backward(self, trainer, pl_module):
        if trainer.current_epoch == 0 and trainer.global_step == 1:
            next(p for p in pl_module.parameters() if p.grad is not None).grad.view(-1)[0] = float("inf")


def on_two_ranks(function, folder, *arguments, start="fork"):
    """What ``function(*arguments)`` returns on each of two gloo ranks.

    They are forked from this process, which takes no time. Circuits on Aer hang there, if this process has run some:
    functions that run them need start="forkserver", and must be found by name.
    """
    torch.multiprocessing.start_processes(_run, (function, folder, arguments), 2, start_method=start)
    return [torch.load(Path(folder) / f"result{rank}.pt") for rank in (0, 1)]


def _run(rank, function, folder, arguments):
    # What Lightning asks for, should the function make a Trainer.
    os.environ["LOCAL_RANK"], rank_zero_only.rank = str(rank), rank
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(function(*arguments), Path(folder) / f"result{rank}.pt")
    torch.distributed.destroy_process_group()
