"""ChangedOptions: a resumed run trains with its new options."""

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
#: Entries of a scheduler's state that its steps change; the others are its arguments.
_MOVING = {
    "last_epoch", "_step_count", "_last_lr", "best", "num_bad_epochs", "cooldown_counter", "T_cur", "T_i",
    "_schedulers", "_get_lr_called_within_step", "_is_initial",
}  # fmt: skip


class ChangedOptions(L.Callback):
    """Apply changed options of optimizers and schedulers when a run is resumed, and print them as old -> new.

    A checkpoint holds the options of its run, and torch restores them, so that without this callback a changed learning
    rate would have no effect. Options and schedulers are compared with those at the start of the run that saved the
    checkpoint; changes that schedules or callbacks made since are kept. If the learning rate, a scheduler or one of its
    arguments changed, schedules are recomputed from step 0. ``ReduceLROnPlateau`` keeps its history: changed arguments
    apply from now on, and a changed learning rate scales the current one.

    Functions (``LambdaLR``, a schedule of ``quantum_weight``) cannot be compared; the new one is used.

    Args:
        config_name: name of the file in the run folder that has this run's configuration; checkpoints record it.
            Default: None.

    Raises:
        ValueError: when training starts, if the run had another class of optimizer, or if a changed schedule cannot be
            recomputed.
    """

    def __init__(self, config_name: str | None = None) -> None:
        self.config_name = config_name
        self._options: list[list[Options]] = []  # this run's, by optimizer and group
        self._classes: list[str] = []  # of the optimizers
        self._schedules: list[Options] = []  # states of the schedulers before their first step
        self._noted: list[list[Options]] = []  # class and arguments of each optimizer's schedulers
        self._before: Options | None = None  # this callback's state in the checkpoint
        self._loaded = 0  # number of schedulers in the checkpoint

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the options of the earlier run."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._before = (checkpoint.get("callbacks") or {}).get(self.state_key)
            self._loaded = len(checkpoint.get("lr_schedulers", ()))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the options of this run before the checkpoint replaces them."""
        self._options = [[plain(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
        self._classes = [type(optimizer).__name__ for optimizer in trainer.optimizers]
        self._schedules = [copy.deepcopy(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs]
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        self._noted = [
            [_noted(schedulers[i], self._schedules[i]) for i in _places(trainer, optimizer)]
            for optimizer in trainer.optimizers
        ]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Apply changed options."""
        if trainer.ckpt_path is None:
            return
        before = self._before["classes"] if self._before else self._classes
        lack = any(o.defaults.keys() - group.keys() for o in trainer.optimizers for group in o.param_groups)
        if before != self._classes or lack:
            was = f"used {', '.join(before)}" if before != self._classes else "had another optimizer"
            raise ValueError(
                f"The run {was}, and now there is {', '.join(self._classes)}: resume with the same optimizer, or start "
                "a new run from its weights (--weights_from)"
            )
        told = []
        for k, optimizer in enumerate(trainer.optimizers):
            changed = self._apply(k, optimizer, trainer)
            of = f" of optimizer {k}" if len(trainer.optimizers) > 1 else ""
            told += [f"{name}{of} {old} -> {new}" for name, (old, new) in changed.items()]
        if told:
            rank_zero_info(f"Changed from step {trainer.global_step} on: {', '.join(told)}")

    def _apply(self, k: int, optimizer: Optimizer, trainer: L.Trainer) -> dict[str, tuple[Any, Any]]:
        """Change the groups and schedulers of an optimizer. Returns old and new values by name."""
        changed: dict[str, tuple[Any, Any]] = {}
        places = _places(trainer, optimizer)
        recorded = self._before["options"][k] if self._before else []
        rates, anew = [], False
        for j, (group, fresh) in enumerate(zip(optimizer.param_groups, self._options[k], strict=True)):
            before = recorded[j] if j < len(recorded) else _original(group, scheduled=bool(places))
            differs = {name: value for name, value in fresh.items() if name in before and before[name] != value}
            if fresh.get("scheduled"):  # a function gives the weight of this step
                differs.pop("quantum_weight", None)
            of = f" of group {j}" if len(optimizer.param_groups) > 1 else ""
            rates.append(_ratio(fresh, before))
            moved = ("lr", "betas", "momentum") if "max_momentum" in group else ("lr",)
            for name, value in differs.items():
                if name not in ("initial_lr", "reference_lr") or "lr" not in differs:
                    changed[f"{name}{of}"] = (before[name], value)
                if places and name in moved:
                    anew = True
                else:
                    _put(group, name, value)
        return changed | self._reschedule(k, optimizer, trainer, places, rates, anew)

    def _reschedule(
        self, k: int, optimizer: Optimizer, trainer: L.Trainer, places: list[int], rates: list[float], anew: bool
    ) -> dict[str, tuple[Any, Any]]:
        """Recompute the schedules of an optimizer if they changed."""
        schedulers = [trainer.lr_scheduler_configs[i].scheduler for i in places]
        old, new = self._of_before(trainer, k), self._noted[k]
        if old is None:
            old = [_noted(s, s.state_dict()) if _is_torchs(s) else n for s, n in zip(schedulers, new, strict=True)]
        changed = {}
        other = [state["class"] for state in old] != [state["class"] for state in new]
        if other:
            names = [" and ".join(state["class"] for state in states) or "none" for states in (old, new)]
            changed["scheduler"] = (names[0], names[1])
        else:
            for was, now in zip(old, new, strict=True):
                differs = {name: (was.get(name), value) for name, value in now.items() if was.get(name) != value}
                differs.pop("base_lrs", None)  # reported as lr
                changed |= {f"{now['class']}.{name.lstrip('_')}": pair for name, pair in differs.items()}
        if not (anew or other or changed or any(rate != 1 for rate in rates)):
            return {}
        plateaus = [s for s in schedulers if isinstance(s, ReduceLROnPlateau)]
        if plateaus and not other:
            for scheduler, i in zip(schedulers, places, strict=True):
                scheduler.load_state_dict(_made_with(self._schedules[i]))
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                _put(group, "lr", float(group["lr"]) * rate)
            return changed
        for group, options in zip(optimizer.param_groups, self._options[k], strict=True):
            for name in ("lr", "betas", "momentum", "initial_lr"):
                if name in options:
                    _put(group, name, options[name])
        steps = [self._steps(trainer.lr_scheduler_configs[i], i, trainer, other) for i in places]
        for scheduler, i in zip(schedulers, places, strict=True):
            scheduler.load_state_dict(copy.deepcopy(self._schedules[i]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # schedulers warn about steps before the optimizer's
            for step in range(max(steps, default=0)):
                for scheduler, count in zip(schedulers, steps, strict=True):
                    if step < count:
                        trainer.lightning_module.lr_scheduler_step(scheduler, None)
        return changed

    def _of_before(self, trainer: L.Trainer, k: int) -> list[Options] | None:
        """The earlier run's schedulers of an optimizer; None for a run of 0.1.0 or of plain Lightning."""
        if self._before:
            return self._before["schedules"][k]
        return None if self._loaded == len(trainer.lr_scheduler_configs) else [{"class": "another"}] * self._loaded

    def _steps(self, config: Any, i: int, trainer: L.Trainer, other: bool) -> int:
        """Number of steps that a scheduler has taken."""
        if isinstance(config.scheduler, ReduceLROnPlateau):
            return 0
        if other:
            return (trainer.global_step if config.interval == "step" else trainer.current_epoch) // config.frequency
        now, fresh = _epoch(config.scheduler.state_dict()), _epoch(self._schedules[i])
        if now is None or fresh is None:
            raise ValueError(
                f"The schedule of {type(config.scheduler).__name__} cannot be recomputed for changed options: resume "
                "with those of the run, or start a new run from its weights (--weights_from)"
            )
        return now - fresh

    def state_dict(self) -> dict[str, Any]:
        """Options, classes and schedulers at the start of the run, and the name of its configuration."""
        return {
            "options": self._options,
            "classes": self._classes,
            "schedules": self._noted,
            "config_path": self.config_name,
        }


def plain(group: Options) -> Options:
    """The numbers, texts and booleans of a parameter group; a tensor with one element counts as a number."""
    values = {k: v.item() if isinstance(v, Tensor) and v.numel() == 1 else v for k, v in group.items() if k != "params"}
    return {
        name: value
        for name, value in values.items()
        if value is None
        or isinstance(value, bool | int | float | str)
        or (isinstance(value, tuple) and all(isinstance(part, int | float) for part in value))
    }


def _original(group: Options, scheduled: bool) -> Options:
    """The options at the start of a run, as far as a checkpoint of 0.1.0 shows them."""
    options = plain(group)
    if scheduled:
        moved = ("betas", "momentum") if "max_momentum" in group else ()
        options = {name: value for name, value in options.items() if name not in ("lr", *moved)}
    return options


def _ratio(fresh: Options, before: Options) -> float:
    name = "initial_lr" if "initial_lr" in fresh and "initial_lr" in before else "lr"
    old = before.get(name, fresh[name])
    return fresh[name] / old if old else 1.0 if fresh[name] == old else float("inf")


def _places(trainer: L.Trainer, optimizer: Optimizer) -> list[int]:
    """Positions of an optimizer's schedulers among those of the trainer."""
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    return [i for i, scheduler in enumerate(schedulers) if getattr(scheduler, "optimizer", None) is optimizer]


def _made_with(state: Options) -> Options:
    """The arguments of a scheduler in its state."""
    return {name: value for name, value in state.items() if name not in _MOVING and not callable(value)}


def _noted(scheduler: Any, state: Options) -> Options:
    """Class and arguments of a scheduler and of the schedulers within it, as plain values."""
    found: Options = {"class": type(scheduler).__name__}
    for name, value in _made_with(state).items():
        numbers = list(value) if isinstance(value, list | tuple) else value
        parts = numbers if isinstance(numbers, list) else [numbers]
        if all(part is None or isinstance(part, bool | int | float | str) for part in parts):
            found[name] = numbers
    for i, part in enumerate(getattr(scheduler, "_schedulers", ())):
        found |= {f"{i}.{name}": value for name, value in _noted(part, state["_schedulers"][i]).items()}
    return found


def _is_torchs(scheduler: Any) -> bool:
    return type(scheduler).__module__ in ("torch.optim.lr_scheduler", "lightning.pytorch.cli")


def _epoch(state: Options) -> int | None:
    """Number of steps that a scheduler has taken by its state, or None."""
    inner = state.get("_schedulers")
    return state["last_epoch"] if "last_epoch" in state else _epoch(inner[0]) if inner else None


def _put(group: Options, name: str, value: Any) -> None:
    if isinstance(group.get(name), Tensor):
        group[name].fill_(value)
    else:
        group[name] = value
