"""The specification of a comparison, read from YAML: base, arms, seeds, tuning, metric, contrasts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning_qsgd.files import find_config, structured
from lightning_qsgd.parser import OneLineErrorParser
from lightning_qsgd.report.numbers import check_direction, direction_of, unit_of
from lightning_qsgd.twin_names import LAYER_TWINS, LayerTwin

Settings = dict  # plain values, by key; with dict[str, Any] the parser would complete values that have a class_path
Level = Literal["full", "shared", "data"]
Twin = Literal["frozen", "constant", "scalar", "shuffled", "matched", "series", "sign", "uniform"]  # of perturbations
AnyTwin = Literal[Twin, LayerTwin, "layers"]

_OPTIMIZER = "model.init_args.optimizer.init_args"
SHORT = {"optimizer": _OPTIMIZER, "perturbation": f"{_OPTIMIZER}.perturbation.init_args"}


@dataclass
class Arm:
    """One way of training.

    Args:
        overlays: YAML files that override the base. Default: none.
        set: settings that override those, nested as in a configuration or by dotted key. Default: none.
        twins: classical twins to add as arms with the name ``<arm>/<twin>``. "frozen", "constant", "scalar",
            "shuffled", "matched", "series", "sign" and "uniform" wrap the arm's perturbation in a
            :class:`lightning_qsgd.optim.ControlPerturbation`. "untrained", "product", "linear", "tanh", "mlp",
            "fitted_series", "bypass" and "shuffled_inputs" replace each circuit layer of its model; see
            :func:`lightning_qsgd.quantum.replace_circuits`. "layers" stands for these eight. Default: none.
        space: values to tune of settings that only this arm has, by dotted key, within the same budget. Default: none.
        tuned_as: the name of another arm, whose tuned settings this arm uses. Twins use their arm's. Default: None,
            this arm is tuned itself.
    """

    overlays: list[str] = field(default_factory=list)
    set: Settings = field(default_factory=dict)
    twins: list[AnyTwin] = field(default_factory=list)
    space: dict[str, list] = field(default_factory=dict)
    tuned_as: str | None = None

    def __post_init__(self) -> None:
        words: dict[AnyTwin, None] = {}
        for twin in self.twins:
            words |= dict.fromkeys(LAYER_TWINS if twin == "layers" else (twin,))
        self.twins = [*words]

    @property
    def layer_twins(self) -> list[LayerTwin]:
        """Those of the twins that replace circuit layers."""
        return [twin for twin in LAYER_TWINS if twin in self.twins]


@dataclass
class Contrast:
    """A difference to judge: ``arm`` minus ``against``, over paired seeds.

    Args:
        arm, against: names of arms.
        level: what the runs of both arms must share, which is checked by hashes. "full": names and initial values of
            all parameters, batches in their order, and the seed of each step. "shared": initial values of the
            parameters that both have, batches, and seeds. "data": batches. Default: "full".
    """

    arm: str
    against: str
    level: Level = "full"

    @property
    def name(self) -> str:
        """``arm - against``."""
        return f"{self.arm} - {self.against}"


@dataclass
class Seeds:
    """The seeds of runs.

    Args:
        evaluation: seeds of the runs that are judged, at least 0. Default: 1 to 10.
        tuning: seeds of the runs that choose settings and the target, disjoint from ``evaluation``. Default: 101 to
            103.
        keys: settings that are set to the seed of a run. Default: seed_everything, and data.init_args.seed if the data
            module has it.
    """

    evaluation: list[int] = field(default_factory=lambda: list(range(1, 11)))
    tuning: list[int] = field(default_factory=lambda: [101, 102, 103])
    keys: list[str] = field(default_factory=lambda: ["seed_everything", "data.init_args.seed"])


@dataclass
class Metric:
    """The primary metric: the mean over the last evaluations of a run.

    Args:
        margin: the smallest difference that matters, above 0, in the metric's unit.
        name: name under which validation logs the metric. Default: "val/accuracy".
        mode: "max" if higher is better, or "min". Default: None, "min" for names that end in loss, mse, mae, error and
            the like, otherwise "max".
        last: number of evaluations at the end of a run that are averaged, at least 1. Default: 3.
        unit: "%" prints values times 100, and differences in percentage points; "" prints plain values. Default: None,
            "%" for names that contain "accuracy" or "f1", otherwise "".
    """

    margin: float
    name: str = "val/accuracy"
    mode: Literal["max", "min"] | None = None
    last: int = 3
    unit: Literal["%", ""] | None = None

    def __post_init__(self) -> None:
        if self.mode is None:
            self.mode = direction_of(self.name) or "max"
        check_direction("metric.mode", self.mode, self.name)
        if self.unit is None:
            self.unit = unit_of(self.name)  # type: ignore[assignment]

    @property
    def sign(self) -> float:
        """1 if higher is better, -1 if lower is better."""
        return 1.0 if self.mode == "max" else -1.0


@dataclass
class Tuning:
    """The budget of each arm that is tuned.

    Args:
        trials: number of points to try per arm, each with all tuning seeds. Default: 0, no tuning.
        space: values to tune of the settings that all arms share, by dotted key. The grid is tried first. The rest of
            the budget is spent beyond the grid if the best value is on its edge, or else between the best value and
            neighbours that are worse by more than the margin. Default: none.
    """

    trials: int = 0
    space: dict[str, list] = field(default_factory=dict)


@dataclass
class Comparison:
    """The specification of a comparison; see ``configs/compare/``.

    Args:
        name: name of the comparison and of its folder, ``<root>/<name>``.
        base: configuration files; later ones override earlier ones.
        metric: the primary metric, with direction and margin.
        arms: the arms by name, such as "adamw". Names contain no "/", which is for twins, and no spaces.
        baseline: the arm that sets the target, and that the report compares all others with.
        set: settings that override the base. Default: none.
        evaluation: settings that override those only in runs with evaluation seeds, such as the held-out part of a
            fixed data set. Default: none.
        contrasts: the differences to judge. Default: none.
        gatekeeper: name of the contrast that is judged first, such as "a - b". All others are exploratory unless it
            shows a difference. Default: None.
        claims: for an arm, all arms that it must beat to show a circuit-specific effect. Default: none.
        dose: for the dose-response plot, arms in the order of their dose, by name of the series. Default: none.
        targets: values of the metric to reach, in addition to the value of the baseline on the tuning seeds. Default:
            None, 0.9 for val/accuracy, the target of arXiv 2511.01918, and none for other metrics.
        seeds: evaluation and tuning seeds.
        tuning: budget and shared settings.
        test: whether to also evaluate the final weights of evaluation runs on the test data. Default: False.
        short: abbreviations of the beginnings of keys in ``set``, ``space`` and ``evaluation``; "optimizer.lr" then
            stands for the learning rate's whole key. Default: optimizer and perturbation.
        root: folder of all comparisons. Default: "logs/compare".

    Raises:
        ValueError: for an unknown arm, a seed in both phases, a margin that is not positive, and other invalid values.
    """

    name: str
    base: list[str]
    metric: Metric
    arms: dict[str, Arm]
    baseline: str
    set: Settings = field(default_factory=dict)
    evaluation: Settings = field(default_factory=dict)
    contrasts: list[Contrast] = field(default_factory=list)
    gatekeeper: str | None = None
    claims: dict[str, list[str]] = field(default_factory=dict)
    dose: dict[str, list[str]] = field(default_factory=dict)
    targets: list[float] | None = None
    seeds: Seeds = field(default_factory=Seeds)
    tuning: Tuning = field(default_factory=Tuning)
    test: bool = False
    short: dict[str, str] = field(default_factory=lambda: dict(SHORT))
    root: str = "logs/compare"

    def __post_init__(self) -> None:
        if self.targets is None:
            self.targets = [0.9] if self.metric.name == "val/accuracy" else []
        names = self.all_arms()
        for arm in self.arms:
            _require("arms", arm, arm and not set(arm) & set("/\\ \t") and arm[0] != ".", "a name without / and spaces")
        tuned_as = [arm.tuned_as for arm in self.arms.values() if arm.tuned_as is not None]
        compared = [name for contrast in self.contrasts for name in (contrast.arm, contrast.against)]
        claimed = [name for arm, others in self.claims.items() for name in (arm, *others)]
        doses = [name for series in self.dose.values() for name in series]
        for key, used in (
            ("baseline", [self.baseline]),
            ("tuned_as", tuned_as),
            ("contrasts", compared),
            ("claims", claimed),
            ("dose", doses),
        ):
            for name in used:
                _require(key, name, name in names, f"an arm: {', '.join(names)}")
        contrasts = [contrast.name for contrast in self.contrasts]
        repeated = sorted({name for name in contrasts if contrasts.count(name) > 1})
        _require("contrasts", repeated, not repeated, "without repetition")
        for name in self.arms:
            _require("tuned_as", self.arms[name].tuned_as, self.tuned_like(name), "an arm that is tuned itself")
        if self.gatekeeper is not None:
            _require("gatekeeper", self.gatekeeper, self.gatekeeper in contrasts, f"one of {', '.join(contrasts)}")
        both = sorted(set(self.seeds.evaluation) & set(self.seeds.tuning))
        _require("seeds", both, not both, "disjoint: tuning seeds are not evaluated")
        for phase, seeds in (("evaluation", self.seeds.evaluation), ("tuning", self.seeds.tuning)):
            _require(f"seeds.{phase}", seeds, len(set(seeds)) == len(seeds) > 0, "at least one seed, each only once")
            _require(f"seeds.{phase}", seeds, min(seeds) >= 0, "at least 0")
        _require("metric.margin", self.metric.margin, self.metric.margin > 0, "above 0")
        _require("metric.last", self.metric.last, self.metric.last >= 1, "at least 1")
        _require("tuning.trials", self.tuning.trials, self.tuning.trials >= 0, "at least 0")
        spaces = [self.tuning.space, *(arm.space for arm in self.arms.values())]
        empty = [key for space in spaces for key, values in space.items() if not values]
        _require("space", empty, not empty, "lists of values")
        for name, arm in self.arms.items():
            keys = [self.full(key) for key in (*self.tuning.space, *arm.space)]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            _require(f"space of arm {name}", twice, not twice, "without repeated settings")
        nested = [key for space in spaces for key, values in space.items() if any(isinstance(v, dict) for v in values)]
        _require("space", nested, not nested, "lists of numbers, words or lists; give a part of a setting its own key")

    def all_arms(self) -> list[str]:
        """The names of all arms and their twins."""
        return [name for arm, spec in self.arms.items() for name in (arm, *(f"{arm}/{twin}" for twin in spec.twins))]

    def tuned_like(self, name: str) -> str | None:
        """The arm whose trials decide the settings of ``name``; None if that arm is not tuned itself."""
        arm = name.partition("/")[0]
        other = self.arms[arm].tuned_as
        if other is None:
            return arm
        parent = other.partition("/")[0]
        return parent if self.arms[parent].tuned_as is None else None

    def full(self, key: str) -> str:
        """Expand the abbreviation at the beginning of a dotted key."""
        first, dot, rest = key.partition(".")
        return f"{self.short.get(first, first)}{dot}{rest}"

    def declaration(self) -> dict[str, Any]:
        """The settings that must not change once evaluation runs have been seen."""
        names = ("metric", "contrasts", "gatekeeper", "claims", "baseline", "seeds", "targets", "tuning")
        return {name: value for name, value in self.to_dict().items() if name in names}

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain values."""
        return asdict(self)

    @property
    def folder(self) -> Path:
        """The folder of runs and results."""
        return Path(self.root) / self.name


def add_arguments(parser: OneLineErrorParser) -> None:
    """Add ``--config`` and one argument for each setting of :class:`Comparison`."""
    parser.may_be_empty = ("arms",)
    parser.add_argument("-c", "--config", action="config", help="YAML file; later ones override earlier ones")
    parser.add_class_arguments(Comparison, None)


def read_spec(config: Sequence[str | Path], overrides: Sequence[str] = ()) -> Comparison:
    """Read a comparison from files.

    Args:
        config: YAML files; later ones override earlier ones.
        overrides: further arguments, such as "--seeds.evaluation=[1,2,3]". Default: none.

    Raises:
        ValueError: if the specification is invalid.
    """
    parser = OneLineErrorParser(prog="lightning-qsgd compare", exit_on_error=False)
    add_arguments(parser)
    arguments = [part for path in config for part in ("--config", find_config(path, comparison=True))]
    return from_options(parser.parse_args([*arguments, *overrides]).as_dict())


def from_options(options: dict[str, Any]) -> Comparison:
    """Make the comparison from the options of a command."""
    return to_comparison({name: options[name] for name in Comparison.__dataclass_fields__})


def to_comparison(values: dict[str, Any]) -> Comparison:
    """Make a comparison from plain values, as :meth:`Comparison.to_dict` returns them.

    Raises:
        ValueError: if a value is invalid or a key is unknown.
    """
    return structured(values, Comparison)


def _require(name: str, value: Any, valid: Any, rule: str) -> None:
    if not valid:
        raise ValueError(f"Invalid {name}: {value!r}; it must be {rule}")
