"""Settings that a run was trained with, beside those that a command asks for now. Level 1."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.seed import isolate_rng

Shapes = dict[str, tuple[int, ...]]


class Named(NamedTuple):
    """The settings that somebody named, by their short keys (see :func:`short`).

    Attributes:
        arguments: on the command line.
        files: in configuration files.
    """

    arguments: set[str]
    files: set[str]

    def source(self, key: str) -> str | None:
        """Who named a setting: "command line" or "configuration"; None: nobody, it is a default."""
        name = short(key)
        for source, names in (("command line", self.arguments), ("configuration", self.files)):
            if name in names or any(each.startswith(f"{name}.") for each in names):  # or a part of it
                return source
        return None


def short(key: str) -> str:
    """A key without "init_args", as it may be typed: model.init_args.lr is model.lr."""
    return key.replace(".init_args", "")


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Settings as one dict with keys such as "model.init_args.lr"; a dict that is an option's value stays one."""
    nested = prefix.count(".") < 2 or prefix.endswith(".init_args.")
    if not isinstance(config, dict) or not config or not (nested or config.keys() & {"class_path", "init_args"}):
        return {prefix[:-1]: config} if prefix else {}
    return {k: v for name, value in config.items() for k, v in flat(value, f"{prefix}{name}.").items()}


def so_that_arguments_win(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, in an order in which configuration files replace none of them.

    Parsers take arguments in their order, and a file would replace what was typed before it: that is moved behind the
    last file. Classes (``--model mine.Model``) stay, too, for the files to change.
    """
    units: list[list[str]] = []  # options with their values
    for word in arguments:
        waits = bool(units) and units[-1][0].startswith("-") and len(units[-1]) == 1 and "=" not in units[-1][0]
        if waits and not word.startswith("--"):
            units[-1].append(word)
        else:
            units.append([word])
    files = [i for i, unit in enumerate(units) if unit[0] in ("-c", "--config") or unit[0].startswith("--config=")]
    last = files[-1] if files else 0
    first: list[list[str]] = []
    moved: list[list[str]] = []
    for i, unit in enumerate(units[:last]):
        key = unit[0].partition("=")[0].removesuffix(".class_path")
        if i in files or not key.startswith("--"):
            first.append(unit)
            continue
        if "." not in key and not any(other[0].startswith(f"{key}.") for other in moved):
            first.append(unit)
        moved.append(unit)
    return [word for unit in (*first, *units[last : last + 1], *moved, *units[last + 1 :]) for word in unit]


def named_in(arguments: Sequence[str]) -> Named:
    """Which settings the arguments of a command name, and which ones their configuration files do."""
    typed: set[str] = set()
    written: set[str] = set()
    words = list(arguments)
    for i, word in enumerate(words):
        key, equals, value = word.partition("=")
        if not equals:
            value = words[i + 1] if i + 1 < len(words) else ""
        if key in ("-c", "--config"):
            written |= {short(name) for name in flat(_plain_yaml(value, file=True))}
        elif key.startswith("--"):
            key = key[2:].removesuffix("+")
            nested = _plain_yaml(value, file=value.endswith((".yaml", ".yml")))
            typed |= {short(name) for name in flat({key: nested})} if isinstance(nested, dict) else {short(key)}
    return Named(typed, written)


def _plain_yaml(text: str, file: bool = False) -> Any:
    """What a text or file says as YAML; None where it says nothing, or what another reader will refuse."""
    try:
        return yaml.safe_load(Path(text).read_text() if file and Path(text).is_file() else text)
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return None


class Differences(NamedTuple):
    """What :func:`compare` found, by key: (value of the run, value asked for).

    Attributes:
        kept: settings that nobody names now: the command takes the run's.
        asked: all others: what is asked for holds.
    """

    kept: dict[str, tuple[Any, Any]]
    asked: dict[str, tuple[Any, Any]]


def compare(recorded: Mapping[str, Any], now: Mapping[str, Any], named: Named, keep: Iterable[str]) -> Differences:
    """The settings in which a command differs from the run whose checkpoint it takes.

    Within a class that is not the run's, only the class itself is compared.

    Args:
        recorded: settings of the run, flat.
        now: those of the command, flat.
        named: those that somebody named.
        keep: parts of the configuration, such as "model", in which the run's values replace defaults.
    """
    kept, asked = {}, {}
    classes = [key for key in recorded.keys() | now.keys() if key.endswith("class_path")]
    other = tuple(key.removesuffix("class_path") for key in classes if recorded.get(key) != now.get(key))
    for key in sorted(now.keys() | recorded.keys()):
        was, asks = recorded.get(key), now.get(key)
        is_class = key.endswith("class_path")
        if was == asks or (key.startswith(other) and not is_class):
            continue
        named_now = named.source(key) is not None
        if key not in recorded and not named_now and not is_class:  # an option that is newer than the run
            continue
        default = not named_now and not is_class and key in now and key.split(".")[0] in keep
        (kept if default else asked)[key] = (was, asks)
    return Differences(kept, asked)


def told(differences: Mapping[str, tuple[Any, Any]]) -> str:
    """As "model.init_args.lr 0.1 -> 0.01, ...": of the run, and asked for."""
    return ", ".join(f"{key} {_brief(was)} -> {_brief(asks)}" for key, (was, asks) in differences.items())


def _brief(value: Any) -> str:
    text = re.sub(r"\s+", " ", str(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def shapes_of(model: Namespace) -> Shapes | None:
    """The shapes in the state_dict of the model that a configuration describes; None if it cannot be built yet.

    The generators of random numbers stay where they are.
    """
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(L.LightningModule, "model", subclass_mode=True)
    try:
        with isolate_rng():
            module = parser.instantiate_classes(Namespace(model=model.clone()))["model"]
            module.configure_model()
            return weight_shapes(module.state_dict())
    except Exception:  # of a user's class, which may need its trainer; building it for the command will tell
        return None


def weight_shapes(state: Mapping[str, Any]) -> Shapes:
    """The shapes of the tensors in a state_dict, without extra state: a circuit's engine decides on the size of its."""
    return {k: tuple(v.shape) for k, v in state.items() if torch.is_tensor(v) and not k.endswith("_extra_state")}


def that_shape_weights(model: Namespace, changes: Mapping[str, tuple[Any, Any]], saved: Shapes) -> dict[str, bool]:
    """Those of some changed settings with which the model's weights do not have the saved shapes.

    Args:
        model: the configuration of the model, as asked for.
        changes: by their keys within it, such as "init_args.embed_dim": value of the run, value asked for.
        saved: shapes of the checkpoint's state_dict.

    Returns:
        Keys of ``changes``, and whether a model can be built with what is asked for. Empty, too, where the model with
        the run's values does not have the saved shapes either.
    """
    if not changes or shapes_of(model) == saved:
        return {}
    as_in_run = model.clone()
    for key, (was, _) in changes.items():
        as_in_run[key] = was
    if shapes_of(as_in_run) != saved:
        return {}
    found = {}
    for key, (_, asks) in changes.items():
        one = as_in_run.clone()
        one[key] = asks
        if (shapes := shapes_of(one)) != saved:
            found[key] = shapes is not None
    return found
