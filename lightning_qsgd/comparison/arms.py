"""Make the complete configuration of each run from arms and seeds."""

import copy
import hashlib
import json
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from pydoc import locate
from typing import Any

from lightning_qsgd.callbacks import TimeToTarget
from lightning_qsgd.comparison.results import PHASES, Phase
from lightning_qsgd.comparison.spec import Comparison, Seeds
from lightning_qsgd.experiment import Experiment
from lightning_qsgd.optim import SinePerturbation
from lightning_qsgd.settings import nested
from lightning_qsgd.twin_names import LAYER_TWINS

Config = dict[str, Any]
OPTIMIZER = "model.init_args.optimizer.init_args"
SET_BY_PLANS = ("experiment", "trainer.default_root_dir", "trainer.devices", "threads")
PERTURBATION, TWIN = f"{OPTIMIZER}.perturbation", f"{OPTIMIZER}.twin"


@dataclass(frozen=True)
class Plan:
    """A run of a comparison, to be trained or found.

    Attributes:
        arm, seed, phase: identify the run.
        values: tuned settings by dotted key.
        config: the complete configuration.
        digest: hash of the configuration without seeds.
        folder: folder of the run, ``<comparison>/runs/<arm>/<digest>/seed_<seed>``.
    """

    arm: str
    seed: int
    phase: Phase
    values: dict[str, Any]
    config: Config
    digest: str
    folder: Path

    @property
    def key(self) -> tuple[str, int, str, str]:
        """The values that identify the run."""
        return self.arm, self.seed, self.phase, self.digest


class Arms:
    """The configurations of all arms of a comparison, parsed once.

    Args:
        comparison: the specification.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: if the configuration of an arm is invalid, with the setting and the reason; if the arm of a
            perturbation's twin has no perturbation; if the arm of a twin trains with a twin itself; if an arm asks for
            several processes per run; or if no arm has one of ``seeds.keys``.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self._configs: dict[tuple[str, Phase], Config] = {}
        parsed: dict[str, Config] = {}  # equal arms and both phases of an arm share one
        for name, arm in comparison.arms.items():
            for phase in PHASES:
                layers = layers_of(comparison, name, phase)
                if (key := repr(layers)) not in parsed:
                    parsed[key] = parse(layers, name)
                self._configs[name, phase] = config = parsed[key]
                for twin in arm.twins:
                    self._configs[f"{name}/{twin}", phase] = _twin_of(config, name, twin)
        for key in comparison.seeds.keys:
            if key not in Seeds().keys and not any(has(config, key) for config in self._configs.values()):
                raise ValueError(f"Invalid seeds.keys: {key!r}; no arm has such a setting")

    def default(self, name: str, keys: list[str]) -> dict[str, Any]:
        """The values of settings in the configuration of an arm, without tuning."""
        return {key: get(self._configs[name, "tuning"], self.comparison.full(key), name) for key in keys}

    def differ_beyond_optimizer(self, one: str, other: str) -> bool:
        """Whether two arms differ in more than the settings of their optimizer."""
        keys = [*self.comparison.seeds.keys, *SET_BY_PLANS, "model.init_args.optimizer"]
        first, second = (_without(self._configs[name, "evaluation"], keys) for name in (one, other))
        return first != second

    def config(self, name: str, phase: Phase, values: dict[str, Any]) -> Config:
        """The configuration of an arm with tuned settings, before it gets a seed.

        Raises:
            ValueError: if the arm does not have one of the settings.
        """
        config = copy.deepcopy(self._configs[name, phase])
        for key, value in values.items():
            key = self.comparison.full(key)
            put(config, _inside(key) if is_perturbation_twin(name) else key, value, name)
        return config

    def plan(self, name: str, seed: int, phase: Phase, values: dict[str, Any]) -> Plan:
        """The run of an arm with one seed and tuned settings.

        Raises:
            ValueError: if the arm does not have one of the settings.
        """
        config = self.config(name, phase, values)
        text = json.dumps(_without(config, self.comparison.seeds.keys), sort_keys=True)
        for key in self.comparison.seeds.keys:
            if key == "seed_everything" or has(config, key):
                put(config, key, seed, name)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        # Runs get their folders by argument, so that these two settings are the same in all of them.
        config["experiment"], config["trainer"]["default_root_dir"] = name.replace("/", "_"), "logs"
        config["trainer"]["devices"] = config["threads"] = 1  # because several runs share a machine
        _let_clock_follow(config)
        folder = self.comparison.folder / "runs" / name / digest / f"seed_{seed}"
        return Plan(name, seed, phase, values, config, digest, folder)


def layers_of(comparison: Comparison, name: str, phase: Phase) -> list[str | Config]:
    """The files and settings of an arm; later ones override earlier ones."""
    arm, last = comparison.arms[name], comparison.evaluation if phase == "evaluation" else {}
    common, own, last = (nested(layer, comparison.full) for layer in (comparison.set, arm.set, last))
    return [layer for layer in (*comparison.base, common, *arm.overlays, own, last) if layer]


def parse(layers: list[str | Config], name: str) -> Config:
    """The complete configuration of an arm.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a setting is invalid, or the arm asks for several processes.
    """
    try:
        config = Experiment(layers).settings
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"Arm {name}: {error}") from error
    processes = config["trainer"]["devices"], config["trainer"]["num_nodes"]
    if processes not in [("auto", 1), (1, 1), ("1", 1)]:
        raise ValueError(
            f"Invalid trainer.devices, trainer.num_nodes of arm {name}: {processes}; each run of a comparison trains "
            "in one process: set devices: 1 and num_nodes: 1"
        )
    return config


def trains_with_sine(config: Config) -> bool:
    """Whether a configuration trains with a :class:`SinePerturbation`, and not with a twin of one."""
    given = get(config, OPTIMIZER, "") if has(config, OPTIMIZER) else {}
    if not given.get("quantum_weight") or given.get("twin"):
        return False
    perturbation = given.get("perturbation") or {"class_path": "lightning_qsgd.optim.SinePerturbation"}  # default
    kind = locate(perturbation["class_path"])
    return isinstance(kind, type) and issubclass(kind, SinePerturbation)


def is_perturbation_twin(name: str) -> bool:
    """Whether an arm is the twin of a perturbation, by its name."""
    return "/" in name and not is_layer_twin(name)


def is_layer_twin(name: str) -> bool:
    """Whether an arm has classical twins in place of circuit layers, by its name."""
    return name.partition("/")[2] in LAYER_TWINS


def _twin_of(config: Config, name: str, kind: str) -> Config:
    config = copy.deepcopy(config)
    if kind in LAYER_TWINS:
        if own := config.get("replace_circuits"):
            raise ValueError(f"Invalid twins of arm {name}: {kind!r}; its circuits are replaced by {own!r} already")
        return config | {"replace_circuits": kind}
    if not has(config, PERTURBATION):
        raise ValueError(f"Invalid twins of arm {name}: {kind!r}; its configuration has no perturbation to imitate")
    reference = get(config, PERTURBATION, name)
    if has(config, TWIN) and (own := get(config, TWIN, name)):
        raise ValueError(f"Invalid twins of arm {name}: {kind!r}; its optimizer trains with the twin {own!r} already")
    put(
        config,
        PERTURBATION,
        {"class_path": "lightning_qsgd.optim.ControlPerturbation", "init_args": {"kind": kind, "reference": reference}},
        name,
    )
    return config


def _inside(key: str) -> str:
    """The key in a twin's configuration of a setting of its arm."""
    return key.replace(f"{PERTURBATION}.", f"{PERTURBATION}.init_args.reference.", 1)


def has(config: Config, key: str) -> bool:
    """Whether a configuration has a setting, by dotted key."""
    place: Any = config
    for part in key.split("."):
        if not isinstance(place, dict) or part not in place:
            return False
        place = place[part]
    return True


def get(config: Config, key: str, arm: str) -> Any:
    """Get a setting by dotted key.

    Raises:
        ValueError: if the configuration does not have it.
    """
    if not has(config, key):
        raise ValueError(f"Invalid space: {key!r}; arm {arm} has no such setting (--print_config of fit lists them)")
    place: Any = config
    for part in key.split("."):
        place = place[part]
    return place


def put(config: Config, key: str, value: Any, arm: str) -> None:
    """Change a setting by dotted key.

    Raises:
        ValueError: if the configuration does not have it.
    """
    get(config, key, arm)
    *path, last = key.split(".")
    for part in path:
        config = config[part]
    config[last] = value


def _let_clock_follow(config: Config) -> None:
    """Leave out defaults of time_to_target if it must follow the checkpoint's monitor, as in a run by itself.

    The complete configuration names them; a run would then wait for val/accuracy, which its model may not log.
    """
    clock, monitor = config.get("time_to_target", {}), config["checkpoint"].get("monitor")
    defaults = {name: parameter.default for name, parameter in signature(TimeToTarget).parameters.items()}
    if monitor is not None and clock.get("metric") == defaults["metric"] != monitor:
        config["time_to_target"] = {name: value for name, value in clock.items() if value != defaults[name]}


def _without(config: Config, keys: list[str]) -> Config:
    config = copy.deepcopy(config)
    for key in keys:
        if has(config, key):
            put(config, key, None, "")
    return config
