"""The command ``init``: make a folder for a new project. Level 4."""

import csv
import os
import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from lightning_qsgd.files import atomic_folder, atomic_write, shipped
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

_README_OF_KIND = """\
# {name}

- `configs/{config}.yaml`: the experiment. Its first lines say how to use your own data.
- `configs/overlay/`: a few lines each, to add to it: {overlays}.
{more}
{first}    {fit}
    {fit} --config configs/overlay/{overlay}.yaml --experiment {overlay}
    python -m lightning_qsgd test --config configs/{config}.yaml --ckpt_path best{options}
{compare}    python -m lightning_qsgd --help
"""
_COMPARED = "- `configs/compare/{}.yaml`: the comparison of its circuit with eight classical twins.\n"


class Kind(NamedTuple):
    """What a project for one kind of data gets.

    Attributes:
        config: name of its configuration.
        overlays: names of the overlays that apply to it. The first one is a control, which its README runs.
        options: options that its commands need.
        more: lines of its README about further files.
        first: a command that comes before all others.
        compare: the command that compares its circuit with classical twins, for a kind that has such a comparison.
    """

    config: str
    overlays: tuple[str, ...]
    options: str = ""
    more: str = ""
    first: str = ""
    compare: str = ""


def _supervised(name: str, more: str = "", first: str = "") -> Kind:
    compare = f"    python -m lightning_qsgd compare --config configs/compare/{name}.yaml\n"
    overlays = ("replace_linear", "cosine", "debug", "ddp2")
    return Kind(name, overlays, more=_COMPARED.format(name) + more, first=first, compare=compare)


KINDS = {
    "table": _supervised("table"),
    "images": _supervised("images"),
    "series": _supervised(
        "series",
        more="- `scripts/fetch_data.py`: writes the sunspots to `data/`.\n",
        first="    python scripts/fetch_data.py sunspots\n",
    ),
    "text": Kind(
        "textcls",
        ("adamw", "cosine", "debug", "ddp2", "sine", "frozen", "matched"),
        options=" --data.train_file data/train.csv",
        more="- `data/train.csv`: texts and labels as an example. Replace it by your own.\n",
    ),
}


def init(arguments: Sequence[str]) -> None:
    """Make a folder for a kind of data, or with a data module to change and all shipped configurations.

    Args:
        arguments: arguments of the command line, without the command's name.

    Raises:
        FileExistsError: if the folder, or a file of that name, exists.
        OSError: if the folder cannot be written; no part of it remains.
    """
    parser = OneLineErrorParser(prog="lightning-qsgd init", description="Make a folder for a new project.")
    parser.add_argument("folder", type=Path, help="folder to make; it must not exist")
    kinds = ["own", *KINDS]
    parser.add_argument("--kind", choices=kinds, default="own", help=f"data: {', '.join(kinds)} (default: own)")
    given = parser.parse_args(list(arguments))
    make_project(given.folder, given.kind)
    kind = KINDS.get(given.kind, Kind("my_data", ()))
    first = f"{kind.first.strip()} && " if kind.first else ""
    print(f"Made {given.folder}. Train: cd {given.folder} && {first}{_fit(kind)}")


def make_project(folder: Path, kind: str = "own") -> None:
    """Make the folder completely, or not at all; see :func:`init`.

    Args:
        folder: the folder, which must not exist.
        kind: "table", "images", "series" or "text", for what these need; "own", for a data module to change. Default:
            "own".
    """
    if os.path.lexists(folder):
        raise FileExistsError(f"Invalid folder: {folder}; it exists, and is not overwritten: name a new one")
    with atomic_folder(folder) as project:
        if kind == "own":
            _own(project, folder.name)
        else:
            _of_kind(project, folder.name, KINDS[kind])


def _own(project: Path, name: str) -> None:
    shutil.copytree(_shipped("configs"), project / "configs")
    for source, place in (("own_data.py", "my_data.py"), ("own_data.yaml", "configs/my_data.yaml")):
        text = _shipped(f"examples/{source}").read_text(encoding="utf-8")
        text = text.replace("own_data.yaml", "configs/my_data.yaml").replace("own_data", "my_data")
        (project / place).write_text(text, encoding="utf-8")
    (project / "README.md").write_text(_README.format(name=name), encoding="utf-8")


def _of_kind(project: Path, name: str, kind: Kind) -> None:
    files = [f"configs/{kind.config}.yaml", *(f"configs/overlay/{overlay}.yaml" for overlay in kind.overlays)]
    if kind.first:
        files.append("scripts/fetch_data.py")
    if kind.compare:
        files.append(f"configs/compare/{kind.config}.yaml")
    for file in files:
        (project / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_shipped(file), project / file)
    if kind.config == "textcls":
        (project / "data").mkdir()
        with atomic_write(project / "data" / "train.csv") as table:
            csv.writer(table, lineterminator="\n").writerows([("text", "label"), *_texts()])
    overlays = ", ".join(f"`{overlay}`" for overlay in kind.overlays)
    about = kind._asdict() | {"name": name, "overlays": overlays, "overlay": kind.overlays[0], "fit": _fit(kind)}
    (project / "README.md").write_text(_README_OF_KIND.format(**about), encoding="utf-8")


def _fit(kind: Kind) -> str:
    return f"python -m lightning_qsgd fit --config configs/{kind.config}.yaml{kind.options}"


def _shipped(path: str) -> Path:
    found = shipped(path)
    assert found is not None, path
    return found


def _texts() -> list[tuple[str, str]]:
    """144 texts with two labels, in which "not" turns the label around."""
    things = ("film", "meal", "hotel", "concert", "book", "journey")
    words = {
        "wonderful": True,
        "charming": True,
        "a delight": True,
        "boring": False,
        "a waste": False,
        "dreadful": False,
    }
    verbs = {"was": True, "was not": False, "seemed": True, "did not seem": False}
    return [
        (f"The {thing} {verb} {word}.", "good" if verbs[verb] == words[word] else "bad")
        for thing, verb, word in product(things, verbs, words)
    ]
