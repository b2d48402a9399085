"""The command ``init``: make a folder for a new project. Level 4."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from lightning_qsgd.files import atomic_folder, shipped
from lightning_qsgd.parser import OneLineErrorParser

_README = """\
# {name}

- `my_data.py`: the data module to change. Its `rows` generates examples; let it read your data instead.
- `configs/my_data.yaml`: the experiment.
- `configs/`: all configurations of lightning_qsgd; add those in `overlay/` to another one.

    python -m lightning_qsgd fit --config configs/my_data.yaml
    python -m lightning_qsgd fit --config configs/my_data.yaml --config configs/overlay/adamw.yaml --experiment adamw
    python -m lightning_qsgd test --config configs/my_data.yaml --ckpt_path best
    python -m lightning_qsgd --help
"""


def init(arguments: Sequence[str]) -> None:
    """Make a folder with a data module, its configuration and all shipped ones.

    Args:
        arguments: arguments of the command line, without the command's name.

    Raises:
        FileExistsError: if the folder, or a file of that name, exists.
        OSError: if the folder cannot be written; no part of it remains.
    """
    parser = OneLineErrorParser(prog="lightning-qsgd init", description="Make a folder for a new project.")
    parser.add_argument("folder", type=Path, help="folder to make; it must not exist")
    folder = parser.parse_args(list(arguments)).folder
    make_project(folder)
    print(f"Made {folder}. Train: cd {folder} && python -m lightning_qsgd fit --config configs/my_data.yaml")


def make_project(folder: Path) -> None:
    """Make the folder completely, or not at all; see :func:`init`."""
    if os.path.lexists(folder):
        raise FileExistsError(f"Invalid folder: {folder}; it exists, and is not overwritten: name a new one")
    configs, examples = shipped("configs"), shipped("examples")
    assert configs is not None
    assert examples is not None
    with atomic_folder(folder) as project:
        shutil.copytree(configs, project / "configs")
        for name, place in (("own_data.py", "my_data.py"), ("own_data.yaml", "configs/my_data.yaml")):
            text = (examples / name).read_text(encoding="utf-8").replace("own_data.yaml", "configs/my_data.yaml")
            text = text.replace("own_data", "my_data")
            (project / place).write_text(text, encoding="utf-8")
        (project / "README.md").write_text(_README.format(name=folder.name), encoding="utf-8")
