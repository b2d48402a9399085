"""A trajectory from checkpoints, without training."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lightning_qsgd.audit.recording import Recorder, find_optimizer
from lightning_qsgd.experiment import Experiment
from lightning_qsgd.run_folder import read_checkpoint


def checkpoints_in(path: Path) -> list[Path]:
    """Checkpoints of a folder (a run folder, or its ``checkpoints``) by training step, one for each step.

    Raises:
        FileNotFoundError: if there is none.
    """
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    by_step = {read_checkpoint(file)["global_step"]: file for file in sorted(folder.glob("*.ckpt"))}
    if not by_step:
        raise FileNotFoundError(f"No checkpoints in {folder}; give a file, a run folder, last, or best")
    return [by_step[step] for step in sorted(by_step)]


def replay(experiment: Experiment, path: str, recorder: Recorder) -> None:
    """Evaluate the model of the last checkpoint, and record the angles of each one's weights.

    Args:
        experiment: whose run it is; afterwards it has the weights of the last checkpoint.
        path: a checkpoint, as for ``validate``, or a folder of several.
        recorder: what records; it hears nothing where the optimizer has no perturbation.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
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
            continue  # a best.ckpt of weights only
        if states is None:
            raise ValueError(
                f"Checkpoint {file} holds weights only (checkpoint.save_weights_only), and nothing of the optimizer; "
                "use last.ckpt beside it (--ckpt_path last)"
            )
        if len(states) != len(optimizers):
            raise ValueError(f"Checkpoint {file} has the state of {len(states)} optimizers, not of {len(optimizers)}")
        weights = checkpoint["state_dict"]
        module.load_state_dict(weights)
        for optimizer, state in zip(optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        recorder.ask(found, module, perturbed)
    recorder.close()
    module.load_state_dict(weights)  # steps have changed it


def _optimizers(configured: Any) -> Iterator[torch.optim.Optimizer]:
    """Those in what ``configure_optimizers`` returned."""
    if isinstance(configured, torch.optim.Optimizer):
        yield configured
    elif isinstance(configured, dict):
        yield from _optimizers(configured.get("optimizer"))
    elif isinstance(configured, list | tuple):
        for part in configured:
            yield from _optimizers(part)
