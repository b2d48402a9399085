"""The command ``init``: a new folder for a project of the user's own. Level 4."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from lightning_qsgd.files import atomic_folder, shipped
from lightning_qsgd.parser import OneLineErrorParser

_README = """\
# {name}

- `my_data.py`: the data module to change; its `rows` makes up examples until it reads yours.
- `configs/my_data.yaml`: the experiment. `configs/`: those shipped with lightning_qsgd; `overlay/` goes on top of them.

    python -m lightning_qsgd fit --config configs/my_data.yaml
    python -m lightning_qsgd fit --config configs/my_data.yaml --config configs/overlay/adamw.yaml --experiment adamw
    python -m lightning_qsgd test --config configs/my_data.yaml --ckpt_path best
    python -m lightning_qsgd --help
"""


def init(arguments: Sequence[str]) -> None:
    """Make a folder with a data module, its configuration and all shipped ones.

    Args:
        arguments: of the command line, without its name.

    Raises:
        FileExistsError: if there is something of that name.
        OSError: if it cannot be written; nothing is then left of it.
    """
    parser = OneLineErrorParser(prog="lightning-qsgd init", description="Make a folder for a project of your own.")
    parser.add_argument("folder", type=Path, help="to make; it must not exist")
    folder = parser.parse_args(list(arguments)).folder
    make_project(folder)
    print(f"Made {folder}. Train: cd {folder} && python -m lightning_qsgd fit --config configs/my_data.yaml")


def make_project(folder: Path) -> None:
    """Make the folder, completely or not at all; see :func:`init`."""
    if os.path.lexists(folder):
        raise FileExistsError(f"Invalid folder: {folder}; it exists, and nothing is written over: name a new one")
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
