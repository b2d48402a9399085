"""Record the angles and values of a perturbation along a training run, or at its checkpoints.

Shapes: T recorded steps, P recorded blocks, n qubits.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from lightning_qsgd.experiment import Experiment
from lightning_qsgd.optim import Perturbation, SuperpositionalGradientDescent
from lightning_qsgd.optim.param_groups import participates
from lightning_qsgd.run_folder import read_checkpoint

BLOCKS = 2048  # approximate number of recorded blocks
LEAST = 256  # blocks to record of each tensor, if it has as many: its split needs 10 for each term
RECORDS = 2**17  # approximate number of recorded blocks times steps, which bounds memory
STEPS = 64, 4096  # minimum and maximum number of recorded steps; RECORDS decides
TIMES = 20  # number of steps with statistics, which cost a fifth of a step
STATISTICS = ("norm_ratio", "norm_ratio_touched", "effective", "touched", "quantum_weight")


@dataclass(frozen=True)
class Trajectory:
    """The recorded angles and modulations of a perturbation.

    Attributes:
        names: names of the optimizer's parameters.
        steps: numbers of the recorded optimizer steps (T,), from 0.
        angles, s: angles in radians and modulations (T, P, n), float32, NaN in padding, and where a step did not touch
            a block.
        numbers: for each block (P,), number of the parameter in which it begins.
        stands_for: number of blocks of that parameter that each recorded block represents (P,), float64, at least 1.
        statistics: statistics of some steps by name; see :data:`STATISTICS`.
        touched: number of coordinates that a step touches.
        settings: settings of the optimizer's first perturbed group by name, at the start of the run. For replayed
            checkpoints, quantum_weight is the median over them.
    """

    names: list[str]
    steps: NDArray[np.int64]
    angles: Tensor
    s: Tensor
    numbers: NDArray[np.int64]
    stands_for: NDArray[np.float64]
    statistics: list[dict[str, float]]
    touched: int
    settings: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether all touched coordinates of the model are recorded."""
        return bool((self.stands_for == 1).all())

    def tensor_names(self) -> list[str]:
        """The parameter's name of each block (P,)."""
        return [self.names[number] for number in self.numbers]


class Panel:
    """A random sample of the blocks of each tensor. The same blocks are recorded at all steps.

    Args:
        sizes: number of coordinates of each parameter that may be touched.
        n: number of coordinates in a block.
        seed: seed of the sample. Default: 0.
    """

    def __init__(self, sizes: Sequence[int], n: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        each = max(LEAST, BLOCKS // max(len(sizes), 1))
        totals = [max(-(-size // n), 1) for size in sizes]
        self._picks = [np.sort(rng.permutation(total)[:each]) for total in totals]
        self._first = np.cumsum([0, *(len(picks) for picks in self._picks)])
        self.n = n
        self.numbers = np.repeat(np.arange(len(sizes)), [len(picks) for picks in self._picks])
        self.stands_for = np.repeat(
            [total / len(picks) for total, picks in zip(totals, self._picks, strict=True)],
            [len(picks) for picks in self._picks],
        )

    def __len__(self) -> int:
        """The number of recorded blocks, P."""
        return len(self.numbers)

    def find(
        self, layout: Sequence[tuple[int, int, int]], seen: dict[int, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Find the recorded blocks in the rows of one call of the perturbation.

        Args:
            layout: layout of the rows; see :class:`lightning_qsgd.optim.Perturbation`.
            seen: number of blocks of each parameter in earlier calls of the step, updated in place.

        Returns:
            The rows of recorded blocks, their rows in the panel, and a mask (rows, n) of coordinates, False in padding.
        """
        owners = np.repeat([run[0] for run in layout for _ in (0, 1)], [k for run in layout for k in run[1:]])
        real = np.repeat([True, False] * len(layout), [k for run in layout for k in run[1:]]).reshape(-1, self.n)
        owners = owners.reshape(-1, self.n)[:, 0]
        rows, places = [], []
        edges = np.flatnonzero(np.diff(owners, prepend=-1, append=-1))
        for start, stop in itertools.pairwise(edges):
            number = int(owners[start])
            before = seen.get(number, 0)
            seen[number] = before + int(stop - start)
            picks = self._picks[number]
            low, high = np.searchsorted(picks, (before, seen[number]))
            rows.append(picks[low:high] - before + start)
            places.append(self._first[number] + np.arange(low, high))
        found = np.concatenate(rows)
        return found, np.concatenate(places), real[found]


class Recorder(L.Callback):
    """Records a sample of blocks at evenly spaced steps. It must be the first callback.

    It records every step until there are too many, then drops every second record and records every second step, and so
    on, so that records are evenly spaced whatever the length of the run. Each rank records its own blocks. Without a
    SuperpositionalGradientDescent nothing is recorded.
    """

    def __init__(self) -> None:
        self._stride, self._current, self._asked = 1, -1, False
        self._steps: list[int] = []
        self._angles: list[Tensor] = []
        self._s: list[Tensor] = []
        self._statistics: list[dict[str, float]] = []
        self._touched = 0
        self._weights: list[float] = []
        self._optimizer: SuperpositionalGradientDescent | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the blocks, and begin to record."""
        expected = trainer.estimated_stepping_batches
        self._every = max(int(min(expected, 2**40)) // TIMES, 1) if expected != float("inf") else 50
        if (optimizer := find_optimizer(trainer.optimizers)) is not None:
            self.listen(optimizer, pl_module)

    def listen(self, optimizer: SuperpositionalGradientDescent, module: torch.nn.Module) -> None:
        """Record all further calls of an optimizer's perturbation.

        Args:
            optimizer: the optimizer.
            module: the module that names its parameters.
        """
        self._optimizer = optimizer
        params = [p for group in optimizer.param_groups for p in group["params"]]
        names = {p: name for name, p in module.named_parameters()}
        self._names = [names.get(p, f"parameter {i}") for i, p in enumerate(params)]
        n = optimizer.perturbation.num_qubits
        self.panel = Panel([p.numel() if optimizer.scope == "all" else min(p.numel(), n) for p in params], n)
        self._most = min(max(RECORDS // len(self.panel), STEPS[0]), STEPS[1])
        group = next(filter(participates, optimizer.param_groups), optimizer.param_groups[0])
        self._settings = {name: group[name] for name in ("quantum_weight", "scale", "target", "coupling")}
        self._settings |= {"scope": optimizer.scope, "lr": float(group["lr"])}
        optimizer.perturbation.on_answer = self.hear

    def ask(
        self, optimizer: SuperpositionalGradientDescent, module: torch.nn.Module, perturbed: Sequence[bool]
    ) -> None:
        """Record a step from the optimizer's current state. The step changes the weights.

        Parameters with a state of Adam get gradients of 0, and the learning rate is above 0.

        Args:
            optimizer: the optimizer, with the state of a checkpoint.
            module: the module, with the weights of the checkpoint.
            perturbed: for each parameter group, whether its quantum weight is ever above 0.
        """
        if self._optimizer is None:
            self.listen(optimizer, module)
        optimizer.displacement = None  # gradients of 0 do not come from displaced weights
        acting = [group for group, acts in zip(optimizer.param_groups, perturbed, strict=True) if acts]
        self._weights += [group["quantum_weight"] for group in acting[:1]]
        for group, acts in zip(optimizer.param_groups, perturbed, strict=True):
            group |= {"scheduled": False, "quantum_weight": float(acts), "lr": group["reference_lr"]}
            for p in group["params"]:
                p.grad = torch.zeros_like(p) if not optimizer.state or p in optimizer.state else None
        optimizer.step()

    def hear(self, angles: Tensor, s: Tensor, step: int) -> None:
        """Record the angles (B, n) and modulations (B, n) of a call."""
        assert self._optimizer is not None
        if step != self._current:
            self._begin(step)
        if step % self._stride:
            return
        layout = self._optimizer.perturbation.layout
        rows, places, real = self.panel.find(layout, self._seen)
        index = torch.from_numpy(rows).to(angles.device)
        for record, values in ((self._angles[-1], angles), (self._s[-1], s)):
            chosen = values.detach().view_as(angles)[index].float().cpu()
            record[torch.from_numpy(places)] = chosen.masked_fill(~torch.from_numpy(real), torch.nan)
        if len(self._steps) == 1 and self._stride == 1:
            self._touched += sum(size for _, size, _ in layout)

    def _begin(self, step: int) -> None:
        self._current, self._seen = step, {}
        if step % self._stride:
            return
        if len(self._steps) >= self._most:
            self._stride *= 2
            kept = [i for i, earlier in enumerate(self._steps) if earlier % self._stride == 0]
            self._steps = [self._steps[i] for i in kept]
            self._angles, self._s = ([values[i] for i in kept] for values in (self._angles, self._s))
            if step % self._stride:
                return
        self._steps.append(step)
        for record in (self._angles, self._s):
            record.append(torch.full((len(self.panel), self.panel.n), torch.nan))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """Request statistics in some steps."""
        if self._optimizer is not None and optimizer is self._optimizer:
            self._asked = self._optimizer.record_statistics = trainer.global_step % self._every == 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the statistics."""
        if self._optimizer is not None and self._asked and (found := self._optimizer.statistics):
            self._statistics.append({name: float(found[name]) for name in STATISTICS})
        self._asked = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop recording."""
        self.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Stop recording."""
        self.close()

    def close(self) -> None:
        """Stop recording."""
        if self._optimizer is not None:
            self._optimizer.perturbation.on_answer = None
            self._optimizer.record_statistics = False

    @property
    def perturbation(self) -> Perturbation | None:
        """The recorded perturbation; None without a SuperpositionalGradientDescent."""
        return None if self._optimizer is None else self._optimizer.perturbation

    def trajectory(self) -> Trajectory | None:
        """The recorded trajectory, without blocks that were never touched; None if no step was perturbed."""
        if self._optimizer is None or not self._steps:
            return None
        angles, s = torch.stack(self._angles), torch.stack(self._s)
        kept = ~s.isnan().all(2).all(0)
        return Trajectory(
            self._names,
            np.array(self._steps),
            angles[:, kept],
            s[:, kept],
            self.panel.numbers[kept.numpy()],
            self.panel.stands_for[kept.numpy()],
            self._statistics,
            self._touched,
            self._settings | ({"quantum_weight": median(self._weights)} if self._weights else {}),
        )


def find_optimizer(optimizers: Sequence[Any]) -> SuperpositionalGradientDescent | None:
    """The first optimizer with a perturbation, with a warning if there are more; None without one."""
    found = [one for one in optimizers if isinstance(one, SuperpositionalGradientDescent)]
    if len(found) > 1:
        rank_zero_warn(f"{len(found)} optimizers have a perturbation; only the first one is audited")
    return found[0] if found else None


def checkpoints_in(path: Path) -> list[Path]:
    """Find the checkpoints in a run folder or its ``checkpoints``, one for each training step, in ascending order.

    Raises:
        FileNotFoundError: if there are none.
    """
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    by_step = {read_checkpoint(file)["global_step"]: file for file in sorted(folder.glob("*.ckpt"))}
    if not by_step:
        raise FileNotFoundError(f"No checkpoints in {folder}; give a file, a run folder, last, or best")
    return [by_step[step] for step in sorted(by_step)]


def replay(experiment: Experiment, path: str, recorder: Recorder) -> None:
    """Evaluate the model of the last checkpoint, and record the angles of the weights in all checkpoints.

    Args:
        experiment: the experiment of the run. Afterwards it has the weights of the last checkpoint.
        path: a checkpoint, as for ``validate``, or a folder of several.
        recorder: the recorder. It records nothing if the optimizer has no perturbation.

    Raises:
        FileNotFoundError: if the checkpoint does not exist.
        ValueError: if a checkpoint cannot be read, or belongs to another model or optimizer.
    """
    files = checkpoints_in(Path(path)) if Path(path).is_dir() else []
    experiment.validate(files[-1] if files else path, save=False)
    module = experiment.module
    optimizers = list(_optimizers(module.configure_optimizers()))
    found = find_optimizer(optimizers)
    if found is None:
        return
    weights: dict[str, torch.Tensor] = {}
    perturbed = [group["scheduled"] or group["quantum_weight"] > 0 for group in found.param_groups]
    for file in files or [Path(str(experiment.ckpt_path))]:
        checkpoint = read_checkpoint(file)
        states = checkpoint.get("optimizer_states")
        if states is None and len(files) > 1:
            continue  # a best.ckpt with only weights
        if states is None:
            raise ValueError(
                f"Checkpoint {file} holds only weights (checkpoint.save_weights_only), and no state of the optimizer; "
                "use last.ckpt of the run (--ckpt_path last)"
            )
        if len(states) != len(optimizers):
            raise ValueError(f"Checkpoint {file} has the states of {len(states)} optimizers, not of {len(optimizers)}")
        weights = checkpoint["state_dict"]
        module.load_state_dict(weights)
        for optimizer, state in zip(optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        recorder.ask(found, module, perturbed)
    recorder.close()
    module.load_state_dict(weights)  # the steps changed them


def _optimizers(configured: Any) -> Iterator[torch.optim.Optimizer]:
    """The optimizers in a return value of ``configure_optimizers``."""
    if isinstance(configured, torch.optim.Optimizer):
        yield configured
    elif isinstance(configured, dict):
        yield from _optimizers(configured.get("optimizer"))
    elif isinstance(configured, list | tuple):
        for part in configured:
            yield from _optimizers(part)
