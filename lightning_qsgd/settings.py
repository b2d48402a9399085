"""The settings of a command, and those that its checkpoint was trained with. Level 2."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any, NamedTuple

import lightning as L
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.seed import isolate_rng
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_qsgd.parser import names_class, refuse_class_names
from lightning_qsgd.run_folder import config_of, epochs_of, folder_of, read_checkpoint
from lightning_qsgd.twin_names import LayerTwin
from lightning_qsgd.yaml_files import read_yaml

Shapes = dict[str, tuple[int, ...]]
Pairs = dict[str, tuple[Any, Any]]  # by key: value of the run, value asked for

#: Settings that decide what a run shows and where it writes, not what it computes.
_DISPLAY = frozenset(
    f"trainer.{name}"
    for name in ("default_root_dir", "logger", "enable_progress_bar", "enable_model_summary", "log_every_n_steps")
)


class Named(NamedTuple):
    """The settings that the user named, by their short keys (see :func:`short`).

    Attributes:
        arguments: those on the command line.
        files: those in configuration files.
    """

    arguments: set[str]
    files: set[str]

    def source(self, key: str) -> str | None:
        """Where the user named a setting: "command line" or "configuration"; None for a default."""
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
    """Order the arguments of a command so that configuration files override none of them.

    The parser applies arguments in their order, so that a file would override what was typed before it. Those arguments
    are moved behind the last file. Classes (``--model mine.Model``) also stay where they are, since files may give
    their options.
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
    """Find the settings that the arguments of a command and their configuration files name."""
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
    """The value of a YAML text or file; None if it is empty, or invalid, which the parser will report."""
    try:
        file = file and "\n" not in text and Path(text).is_file()
        return yaml.safe_load(Path(text).read_text() if file else text)
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return None


class Differences(NamedTuple):
    """Settings in which a command differs from a run, by key: (value of the run, value of the command).

    Attributes:
        kept: settings that the user did not name. The run's values hold.
        asked: all others. The command's values hold.
    """

    kept: Pairs
    asked: Pairs


def compare(recorded: Mapping[str, Any], now: Mapping[str, Any], named: Named, keep: Iterable[str]) -> Differences:
    """Compare the settings of a command with those of its checkpoint's run.

    If the classes at a key differ, their options are not compared.

    Args:
        recorded: settings of the run, flat.
        now: those of the command, flat.
        named: those that the user named.
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
        if key not in recorded and not named_now and not is_class:  # an option that did not exist yet
            continue
        default = not named_now and not is_class and key in now and key.split(".")[0] in keep
        (kept if default else asked)[key] = (was, asks)
    return Differences(kept, asked)


def told(differences: Mapping[str, tuple[Any, Any]]) -> str:
    """Differences as one text: "model.init_args.lr 0.1 -> 0.01, ..."."""
    return ", ".join(f"{key} {_brief(was)} -> {_brief(asks)}" for key, (was, asks) in differences.items())


def _brief(value: Any) -> str:
    text = re.sub(r"\s+", " ", str(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def shapes_of(model: Namespace, twin: LayerTwin | None = None) -> Shapes | None:
    """The shapes in the state_dict of the model that a configuration describes; None if it cannot be built yet.

    The states of random number generators do not change.

    Args:
        model: the configuration of the model.
        twin: what takes the place of its circuit layers. Default: None, they stay.
    """
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(L.LightningModule, "model", subclass_mode=True)
    try:
        with isolate_rng():
            module = parser.instantiate_classes(Namespace(model=model.clone()))["model"]
            module.configure_model()
            if twin is not None:
                from lightning_qsgd.quantum.layer_twins import replace_circuits

                replace_circuits(module, twin)
            return weight_shapes(module.state_dict())
    except Exception:  # a user's class may need its trainer; a real fault shows when the command builds it
        return None


def predicts(data: Namespace | None) -> str | None:
    """What the data module of a configuration is made for, "classes" or "numbers"; None if it does not say so."""
    if data is None or not hasattr(locate(data.class_path), "predicts"):
        return None
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(L.LightningDataModule, "data", subclass_mode=True)
    return parser.instantiate_classes(Namespace(data=data.clone()))["data"].predicts


def weight_shapes(state: Mapping[str, Any]) -> Shapes:
    """The shapes of the tensors in a state_dict, without extra states, whose sizes depend on a circuit's engine."""
    return {k: tuple(v.shape) for k, v in state.items() if torch.is_tensor(v) and not k.endswith("_extra_state")}


def that_shape_weights(
    model: Namespace, changes: Mapping[str, tuple[Any, Any]], saved: Shapes, twin: LayerTwin | None = None
) -> dict[str, bool]:
    """Find the changed settings that give the model's weights other shapes than the saved ones.

    Args:
        model: the configuration of the model, as asked for.
        changes: (value of the run, value of the command) by the setting's key in the model, such as
            "init_args.embed_dim".
        saved: shapes of the checkpoint's state_dict.
        twin: what takes the place of circuit layers, in the run and now. Default: None, they stay.

    Returns:
        By key of ``changes``, whether a model can be built with the new value. Empty also if the model has other shapes
        than the saved ones even with the run's values.
    """
    if not changes or shapes_of(model, twin) == saved:
        return {}
    as_in_run = model.clone()
    for key, (was, _) in changes.items():
        as_in_run[key] = was
    if shapes_of(as_in_run, twin) != saved:
        return {}
    found = {}
    for key, (_, asks) in changes.items():
        one = as_in_run.clone()
        one[key] = asks
        if (shapes := shapes_of(one, twin)) != saved:
            found[key] = shapes is not None
    return found


class SavedRun:
    """The run of a checkpoint that a command takes.

    Args:
        file: the checkpoint.

    Attributes:
        folder: the run folder, or the folder of the file.
        step: number of optimizer steps up to the checkpoint, as loggers count them.
        position: epoch and optimizer step of the checkpoint, for reports.

    Raises:
        ValueError: if the file cannot be read, or is not a checkpoint of Lightning.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.folder, self.checkpoint = file, folder_of(file), read_checkpoint(file)
        if "pytorch-lightning_version" not in self.checkpoint:
            raise ValueError(
                f"{file} holds only weights, and is not a checkpoint of Lightning: start from it with --weights_from"
            )
        self._begun, self._complete = epochs_of(self.checkpoint)
        self.position: dict[str, int] = {"epoch": self._begun, "step": self.checkpoint["global_step"]}
        stepped = self.checkpoint.get("exact_resume", [{}])[0].get("stepped")
        self.step: int = self.checkpoint["global_step"] if stepped is None else stepped
        self.record = config_of(file, self.checkpoint)  # its configuration

    @property
    def in_run_folder(self) -> bool:
        """Whether the file is in a run folder, so that a resumed run stays there."""
        return self.file.parent.name == "checkpoints"

    def settle(self, config: Namespace, plain: dict[str, Any], named: Named, resumes: bool) -> str:
        """Decide which settings hold, and print the differences from the run.

        Settings on the command line or in a configuration file hold, except those in a file that would give the weights
        other shapes. Settings of the model and data that the user did not name are those of the run.

        Args:
            config: the configuration of the command, changed in place.
            plain: the same, as plain values.
            named: the settings that the user named.
            resumes: whether the run is resumed, or only evaluated.

        Returns:
            The differences that hold, as text.

        Raises:
            ValueError: if the command line asks for weights of other shapes, a resumed run for another optimizer, or
                the command for another twin of the circuits.
        """
        self._keep_twin(config, named)
        kept, asked = self._differences(config, flat(plain), named, resumes)
        for key, (was, _) in kept.items():
            config[key] = was
        if resumes and (of := "model.init_args.optimizer.class_path") in asked:
            raise ValueError(
                f"The run used {asked[of][0]}, but this configuration has {asked[of][1]}; resume with --config "
                f"{self.record}, or start a new run"
            )
        self._keep_shapes(config, kept, asked, named)
        if kept:
            values = ", ".join(f"{key}={was} (not {asks})" for key, (was, asks) in kept.items())
            rank_zero_warn(f"As in the run of the checkpoint: {values}")
        if asked:
            rank_zero_warn(f"{'Resumed with changes' if resumes else 'Unlike in the run'}: {told(asked)}")
        return told(asked)

    def _keep_twin(self, config: Namespace, named: Named) -> None:
        """Set the twin of circuit layers to the run's, since the weights are those of the twin."""
        was, asks = self.checkpoint.get("replace_circuits"), config.replace_circuits
        if was != asks and named.source("replace_circuits"):
            told = {None: "null, with its own circuits"}
            raise ValueError(
                f"Invalid replace_circuits: {told.get(asks, asks)}; the run of {self.file} trained with "
                f"{told.get(was, was)}: leave the setting out, or train a new run"
            )
        config.replace_circuits = was

    def _differences(self, config: Namespace, now: dict[str, Any], named: Named, resumes: bool) -> Differences:
        """Settings that are taken from the run because the user names none, and differences that the command keeps."""
        recorded = flat(read_yaml(self.record)) if self.record else {}
        known = recorded or now  # without a record, only hyper-parameters can be compared
        learned = {f"model.init_args.{name}": value for name, value in self.checkpoint["hyper_parameters"].items()}
        for key, value in learned.items():
            if now.get(key) != value and any(name == key or name.startswith(f"{key}.") for name in now):
                refuse_class_names(value, f"{key.removeprefix('model.init_args.')} of checkpoint {self.file}")
            if key in now and now[key] != value:
                if key in recorded and recorded[key] == now[key]:  # the same setting, and the value that it led to
                    config[key] = now[key] = value
                known = known | {key: value}
        parts = ("model", "data", *(("seed_everything", "trainer") if resumes else ("trainer.precision",)))
        self._recorded, now = (
            {k: v for k, v in settings.items() if re.match(rf"({'|'.join(parts)})(\.|$)", k) and k not in _DISPLAY}
            for settings in (known, now)
        )
        kept, asked = compare(self._recorded, now, named, keep=("model", "data", "seed_everything"))
        for key in [key for key, (was, _) in kept.items() if names_class(was)]:  # only a configuration may name classes
            asked[key] = kept.pop(key)
        return Differences(kept, asked)

    def _keep_shapes(self, config: Namespace, kept: Pairs, asked: Pairs, named: Named) -> None:
        """Move settings of files that would give the weights other shapes from ``asked`` to ``kept``."""
        model = {
            key.removeprefix("model."): pair
            for key, pair in asked.items()
            if key.startswith("model.init_args.") and not key.endswith("class_path") and key in self._recorded
        }
        shapes = weight_shapes(self.checkpoint["state_dict"])
        for name, builds in that_shape_weights(config.model, model, shapes, config.replace_circuits).items():
            was, asks = model[name]
            if named.source(f"model.{name}") == "command line":
                if not builds:  # the error of the model says why
                    continue
                raise ValueError(
                    f"Invalid --{short(f'model.{name}')}: {asks}; the weights in {self.file} were trained with {was} "
                    "and have other shapes: leave the option out, or train a new model"
                )
            config.model[name] = was
            kept[f"model.{name}"] = asked.pop(f"model.{name}")

    def finished(self, config: Namespace, auto: bool) -> str | None:
        """Why nothing is left to train; None if something is.

        Args:
            config: the configuration of the command.
            auto: whether a run that a callback stopped early counts as finished.
        """
        epochs, steps = config.trainer.max_epochs, config.trainer.max_steps
        if epochs not in (None, -1) and self._begun >= epochs and self._complete:
            return f"The run of {self.file} has finished its {epochs} epochs; raise --trainer.max_epochs"
        if steps != -1 and self.checkpoint["global_step"] >= steps:
            return f"The run of {self.file} has finished its {steps} steps; raise --trainer.max_steps"
        if auto and self.checkpoint.get("stopped_early"):
            return f"The run of {self.file} was stopped early by a callback; to train on, use --ckpt_path last"
        return None

    def check_resumable(self, config: Namespace, named: Named) -> None:
        """Check that the run can be resumed.

        Raises:
            ValueError: if the checkpoint holds only weights, has a form that cannot be loaded, or the command names
                another experiment.
        """
        if "optimizer_states" not in self.checkpoint or "loops" not in self.checkpoint:
            raise ValueError(
                f"Checkpoint {self.file} holds only weights (checkpoint.save_weights_only), so that training cannot be "
                "resumed from it; use last.ckpt of the run (--ckpt_path last), or start a new run from its weights "
                "(--weights_from)"
            )
        saved = [group for state in self.checkpoint["optimizer_states"] for group in state["param_groups"]]
        sharded = "ModelParallelStrategy" in str(config.trainer.strategy)
        if sharded and any(isinstance(group.get("perturbation_state"), dict) for group in saved):
            raise ValueError(  # torch expects the form of the optimizer's own state, which has changed since
                f"Invalid trainer.strategy: ModelParallelStrategy cannot load the perturbation's state of {self.file}, "
                "which version 0.1.0 wrote; resume for one step without that strategy, and then with it"
            )
        asked = config.experiment
        if "experiment" in named.arguments and self.in_run_folder and self.folder.resolve().parent.name != asked:
            raise ValueError(
                f"Invalid experiment: {asked}; a resumed run stays in its folder {self.folder}: leave --experiment "
                "out, or copy the checkpoint into another folder and resume that copy, which makes a new run folder"
            )


def nested(settings: Mapping[str, Any], full: Callable[[str], str] = str) -> dict[str, Any]:
    """Turn settings with dotted keys into nested ones; settings that are nested already stay.

    Args:
        settings: values by key.
        full: expands a short key. Default: keys stay.

    Raises:
        ValueError: if a setting is given twice. A later key may change a part of an earlier nested setting.
    """
    result: dict[str, Any] = {}
    wholes: list[str] = []  # keys of nested settings, parts of which later keys may change
    for name, value in settings.items():
        key = full(str(name))
        changes_a_part = any(key.startswith(f"{whole}.") for whole in wholes)
        if isinstance(value, dict):
            wholes.append(key)
            value = nested(value)
        for part in reversed(key.split(".")):
            value = {part: value}
        _join(result, value, "", changes_a_part)
    return result


def _join(into: dict[str, Any], new: dict[str, Any], path: str, replace: bool) -> None:
    for name, value in new.items():
        key, known = f"{path}{name}", into.get(name)
        if isinstance(known, dict) and isinstance(value, dict):
            _join(known, value, f"{key}.", replace)
        elif name not in into or (replace and not isinstance(known, dict)):
            into[name] = value
        else:
            raise ValueError(f"Invalid set: {key!r} is given twice, as {known!r} and as {value!r}; remove one")
