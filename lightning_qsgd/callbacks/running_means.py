"""What a training epoch has summed up so far, so that a resumed epoch ends with the means of the whole epoch."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric

Sums = dict[str, dict[str, Any]]


def get_sums(trainer: L.Trainer, metrics: dict[str, Metric]) -> Sums:
    """Sums and counts of this process: of metrics that were updated, and of ``self.log(..., on_epoch=True)``.

    Returns:
        metrics: the states of each, with its number of updates; logged: value and number of
        samples by Lightning's key, and what they are logged as. Tensors and plain values only.
    """
    updated = {}
    for name, metric in metrics.items():
        if metric.update_count:
            states = {state: _copy(value) for state, value in metric.metric_state.items()}
            updated[name] = {"states": states, "updates": metric.update_count}
    logged = {}
    for key, result in _epoch_results(trainer).items():
        meta = result.meta
        logged[key] = {
            "value": _copy(result.value),
            "count": _copy(getattr(result, "cumulated_batch_size", None)),
            "reduce": next((name for name in ("sum", "max", "min") if getattr(meta, f"is_{name}_reduction")), "mean"),
            "name": f"{meta.name}_epoch" if meta.on_step else meta.name,
            "options": {"prog_bar": meta.prog_bar, "logger": meta.logger, "sync_dist": meta.sync.should},
        }
    return {"metrics": updated, "logged": logged}


def set_metrics(sums: Sums, metrics: dict[str, Metric]) -> None:
    """Give metrics the states of :func:`get_sums`; all others are reset."""
    for name, metric in metrics.items():
        metric.reset()
        if (saved := sums["metrics"].get(name)) is None:
            continue
        for state, value in saved["states"].items():
            setattr(metric, state, _to(value, metric.device))
        metric._update_count = saved["updates"]  # there is no public way


def add_logged(logged: dict[str, Any], trainer: L.Trainer) -> None:
    """Put what :func:`get_sums` returned as logged under what a resumed epoch has logged since, and take it out."""
    for key, result in _epoch_results(trainer).items():
        if (saved := logged.pop(key, None)) is None:
            continue
        value, count = _to(saved["value"], result.value.device), _to(saved["count"], result.value.device)
        if result.meta.is_mean_reduction or result.meta.is_sum_reduction:
            result.value = value + result.value
        else:  # minimum, maximum
            result.value = result.meta.reduce_fx(value, result.value)
        if count is not None:
            result.cumulated_batch_size = count + result.cumulated_batch_size


def log_rest(logged: dict[str, Any], module: L.LightningModule) -> None:
    """Log at the end of a resumed epoch what was logged in it before the checkpoint only; of this process."""
    for saved in logged.values():
        value = saved["value"] if saved["count"] is None else saved["value"] / saved["count"]
        module.log(saved["name"], value, reduce_fx=saved["reduce"], **saved["options"])
    logged.clear()


def find_metrics(module: L.LightningModule) -> dict[str, Metric]:
    """The torchmetrics in a module, by their place."""
    return {name: part for name, part in module.named_modules() if isinstance(part, Metric)}


def _epoch_results(trainer: L.Trainer) -> dict[str, Any]:
    """Lightning's running means; metrics are in the module, and values of single steps are no sums."""
    results = trainer.fit_loop.epoch_loop._results
    return {
        k: result for k, result in results.items() if result.is_tensor and result.meta.on_epoch and not result.has_reset
    }


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return list(value) if isinstance(value, list) else value  # what is in a list is appended, never changed


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return [_to(part, device) for part in value] if isinstance(value, list) else value
