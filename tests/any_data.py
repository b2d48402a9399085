"""Small runs of the three configurations for tables, images and series."""

import math

import torch

from lightning_qsgd.experiment import Experiment

CONFIGS = ["table", "images", "series"]


def of_series(folder):
    """The option for data of the series, which no library brings along."""
    if not (path := folder / "series.csv").is_file():
        rows = (f"{1900 + i // 12}-{i % 12 + 1:02},{50 + 40 * math.sin(i / 5):.3f}\n" for i in range(240))
        path.write_text("month,sunspots\n" + "".join(rows))
    return f"--data.train_file={path}"


def fit(folder, name, steps, *options):
    """The weights after a run, of ``steps`` steps from its beginning, in this process."""
    folder.mkdir(parents=True, exist_ok=True)
    data = [of_series(folder)] if name == "series" else []
    settings = ["limit_val_batches=1", "enable_progress_bar=false", "enable_model_summary=false", "logger=false"]
    given = [*data, f"--trainer.max_steps={steps}", *(f"--trainer.{setting}" for setting in settings)]
    given += [f"--config=configs/{name}.yaml", f"--trainer.default_root_dir={folder}", *options]
    Experiment.typed(given).fit()
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # until rank 0 has written it
    saved = torch.load(folder / name / "version_0" / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")
    assert saved["global_step"] == steps
    return {key: value for key, value in saved["state_dict"].items() if value.is_floating_point()}


def assert_close(first, second, tolerance):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=tolerance, rtol=tolerance, msg=name)
