"""ChangedOptions: a resumed run trains with the options that it is given now."""

import copy
import warnings
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

Options = dict[str, Any]
#: What a scheduler's steps move in its state; the rest is what it was made with.
_MOVING = {
    "last_epoch", "_step_count", "_last_lr", "best", "num_bad_epochs", "cooldown_counter", "T_cur", "T_i",
    "_schedulers", "_get_lr_called_within_step", "_is_initial",
}  # fmt: skip
#: What schedulers write into parameter groups.
_OF_SCHEDULES = ("lr", "betas", "momentum")


class ChangedOptions(L.Callback):
    """Applies changed options of optimizers and schedulers where a run is resumed, and prints them: old -> new.

    A checkpoint brings the options that its run had, and torch lets them win: without this callback another learning
    rate would do nothing. Options are compared with those that the optimizer had at the start of the run that saved the
    checkpoint, so that what schedules or callbacks have made of them is kept. Where the learning rate or a number of a
    scheduler changed, its schedule is computed anew from step 0. ``ReduceLROnPlateau`` keeps its history: its changed
    numbers hold from now on, and a changed learning rate scales the present one.

    Functions (``LambdaLR``, a schedule of ``quantum_weight``) are no numbers: the present one is used.
    """

    def __init__(self) -> None:
        self._options: list[list[Options]] = []  # by optimizer and group, as this run configures them
        self._schedules: list[Options] = []
        self._before: list[list[Options]] | None = None  # those of the checkpoint

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note the options of the run before."""
        self._before = None
        if trainer.state.fn == TrainerFn.FITTING and (state := checkpoint["callbacks"].get(self.state_key)):
            self._before = state["options"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the options before a checkpoint replaces them."""
        self._options = [[plain(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
        self._schedules = [copy.deepcopy(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Apply what changed."""
        if trainer.ckpt_path is None:
            return
        told = []
        for k, optimizer in enumerate(trainer.optimizers):
            changed = self._apply(k, optimizer, trainer)
            of = f" of optimizer {k}" if len(trainer.optimizers) > 1 else ""
            told += [f"{name}{of} {old} -> {new}" for name, (old, new) in changed.items()]
        if told:
            rank_zero_info(f"Changed from step {trainer.global_step} on: {', '.join(told)}")

    def _apply(self, k: int, optimizer: Optimizer, trainer: L.Trainer) -> dict[str, tuple[Any, Any]]:
        """Change an optimizer's groups and its schedulers; old and new values by name."""
        changed: dict[str, tuple[Any, Any]] = {}
        schedulers = [
            (config.scheduler, fresh)
            for config, fresh in zip(trainer.lr_scheduler_configs, self._schedules, strict=True)
            if config.scheduler.optimizer is optimizer
        ]
        recorded = self._before[k] if self._before and k < len(self._before) else None
        rates = []
        for j, (group, fresh) in enumerate(zip(optimizer.param_groups, self._options[k], strict=True)):
            before = recorded[j] if recorded and j < len(recorded) else _original(group, scheduled=bool(schedulers))
            differs = {name: value for name, value in fresh.items() if name in before and before[name] != value}
            if fresh.get("scheduled"):  # the weight of this step is the function's
                differs.pop("quantum_weight", None)
            of = f" of group {j}" if len(optimizer.param_groups) > 1 else ""
            rates.append(_ratio(fresh, before))
            for name, value in differs.items():
                if name not in ("initial_lr", "reference_lr") or "lr" not in differs:
                    changed[f"{name}{of}"] = (before[name], value)
                if name not in _OF_SCHEDULES or not schedulers:
                    _put(group, name, value)
        for scheduler, fresh in schedulers:
            changed |= self._reschedule(scheduler, fresh, optimizer, k, rates)
        return changed

    def _reschedule(
        self, scheduler: Any, fresh: Options, optimizer: Optimizer, k: int, rates: list[float]
    ) -> dict[str, tuple[Any, Any]]:
        now = scheduler.state_dict()
        numbers = {name: (now.get(name), value) for name, value in _made_with(fresh).items() if now.get(name) != value}
        if not numbers and all(rate == 1 for rate in rates):
            return {}
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.load_state_dict({name: new for name, (_, new) in numbers.items()})
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                _put(group, "lr", float(group["lr"]) * rate)
        else:
            for group, options in zip(optimizer.param_groups, self._options[k], strict=True):
                for name in _OF_SCHEDULES:
                    if name in options:
                        _put(group, name, options[name])
            scheduler.load_state_dict(copy.deepcopy(fresh))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of steps before the optimizer's
                for _ in range(now["last_epoch"] - fresh["last_epoch"]):
                    scheduler.step()
        numbers.pop("base_lrs", None)  # said as lr
        return {f"{type(scheduler).__name__}.{name}": pair for name, pair in numbers.items() if name[0] != "_"}

    def state_dict(self) -> dict[str, Any]:
        """The options that the run was started with."""
        return {"options": self._options}


def plain(group: Options) -> Options:
    """The numbers, texts and yes-or-no of a parameter group; a learning rate that is a tensor as a number."""
    values = {k: v.item() if isinstance(v, Tensor) and v.numel() == 1 else v for k, v in group.items() if k != "params"}
    return {
        name: value
        for name, value in values.items()
        if value is None
        or isinstance(value, bool | int | float | str)
        or (isinstance(value, tuple) and all(isinstance(part, int | float) for part in value))
    }


def _original(group: Options, scheduled: bool) -> Options:
    """The options that a run began with, as far as a checkpoint can tell that does not hold them (of 0.1.0)."""
    options = plain(group)
    if scheduled:
        moved = ("betas", "momentum") if "max_momentum" in group else ()
        options = {name: value for name, value in options.items() if name not in ("lr", *moved)}
    return options


def _ratio(fresh: Options, before: Options) -> float:
    name = "initial_lr" if "initial_lr" in fresh and "initial_lr" in before else "lr"
    old = before.get(name, fresh[name])
    return fresh[name] / old if old else 1.0 if fresh[name] == old else float("inf")


def _made_with(state: Options) -> Options:
    """The numbers in a scheduler's state that stepping does not move."""
    parts = {f"_schedulers.{i}": part for i, part in enumerate(state.get("_schedulers", ()))}
    own = {name: value for name, value in state.items() if name not in _MOVING and not callable(value)}
    return own | {f"{name}.{k}": v for name, part in parts.items() for k, v in _made_with(part).items()}


def _put(group: Options, name: str, value: Any) -> None:
    if isinstance(group[name], Tensor):
        group[name].fill_(value)
    else:
        group[name] = value
