"""What a comparison is: base, arms, seeds, tuning, metric, contrasts; read from YAML."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning_qsgd.files import find_config, structured
from lightning_qsgd.parser import OneLineErrorParser
from lightning_qsgd.report.numbers import unit_of

Settings = dict  # of plain values; the parser would fill in dict[str, Any] where it finds a class_path
Level = Literal["full", "shared", "data"]
Twin = Literal["frozen", "constant", "scalar", "shuffled", "matched", "series", "sign", "uniform"]

_OPTIMIZER = "model.init_args.optimizer.init_args"
SHORT = {"optimizer": _OPTIMIZER, "perturbation": f"{_OPTIMIZER}.perturbation.init_args"}


@dataclass
class Arm:
    """One way of training.

    Args:
        overlays: YAML files over the base. Default: none.
        set: settings over those, nested as in a configuration or by dotted key. Default: none.
        twins: classical twins to add as arms of their own, named ``<arm>/<twin>``: the same with the perturbation
            inside of a :class:`lightning_qsgd.optim.ControlPerturbation`. Default: none.
        space: values of settings that only this arm has, tuned from the same budget; by dotted key. Default: none.
        tuned_as: another arm, whose tuned settings it takes; a twin takes its arm's. Default: None, it is tuned itself.
    """

    overlays: list[str] = field(default_factory=list)
    set: Settings = field(default_factory=dict)
    twins: list[Twin] = field(default_factory=list)
    space: dict[str, list] = field(default_factory=dict)
    tuned_as: str | None = None


@dataclass
class Contrast:
    """A difference that is judged: ``arm`` minus ``against``, over paired seeds.

    Args:
        arm, against: names of arms.
        level: what both must share, checked by hashes. "full" (default): names and initial values of all parameters,
            the batches and their order, the seed of each step; "shared": initial values of the parameters that both
            have, batches, seeds; "data": batches.
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
    """Seeds, disjoint; each run's own goes into all of ``keys``.

    Args:
        evaluation: of the runs that are judged. Default: 1 to 10.
        tuning: of the runs that choose settings and the target. Default: 101 to 103.
        keys: settings that take the seed. Default: seed_everything, and data.init_args.seed where the data have one.
    """

    evaluation: list[int] = field(default_factory=lambda: list(range(1, 11)))
    tuning: list[int] = field(default_factory=lambda: [101, 102, 103])
    keys: list[str] = field(default_factory=lambda: ["seed_everything", "data.init_args.seed"])


@dataclass
class Metric:
    """The primary metric: the mean of a run's last evaluations.

    Args:
        margin: smallest difference that matters, above 0, in the metric's unit.
        name: as logged at validation. Default: "val/accuracy".
        mode: "max" (default): more is better; "min".
        last: evaluations at the end that are averaged, at least 1. Default: 3.
        unit: "%": printed times 100, differences in percentage points; "": printed as it is. Default: "%" for names
            with "accuracy" or "f1" in them.
    """

    margin: float
    name: str = "val/accuracy"
    mode: Literal["max", "min"] = "max"
    last: int = 3
    unit: Literal["%", ""] | None = None

    def __post_init__(self) -> None:
        if self.unit is None:
            self.unit = unit_of(self.name)  # type: ignore[assignment]

    @property
    def sign(self) -> float:
        """What makes more better: 1, or -1 for a metric that is minimized."""
        return 1.0 if self.mode == "max" else -1.0


@dataclass
class Tuning:
    """The budget of each arm that is tuned.

    Args:
        trials: settings to try per arm, each on all tuning seeds; 0 (default): no tuning.
        space: values of the settings that all arms share, by dotted key. The grid comes first; what is left of the
            budget goes beyond the edge that the best value lies on, or between it and neighbours that differ by more
            than the margin. Default: none.
    """

    trials: int = 0
    space: dict[str, list] = field(default_factory=dict)


@dataclass
class Comparison:
    """A whole comparison; see ``configs/compare/``.

    Args:
        name: of its folder, ``<root>/<name>``.
        base: configuration files, later ones over earlier ones.
        metric: the primary metric, with direction and margin.
        arms: by name, as "adamw"; "/" is for twins.
        baseline: the arm that sets the target, and that others are shown against.
        set: settings over the base. Default: none.
        evaluation: settings over those in runs of the evaluation seeds only, such as the held-out data of a fixed data
            set. Default: none.
        contrasts: what is judged. Default: none.
        gatekeeper: name of the contrast that is judged first, as "a - b"; the others are exploratory unless it shows a
            difference. Default: None.
        claims: arm and what it must all beat to be called a circuit-specific effect. Default: none.
        dose: settings whose values order arms for the dose-response plot: arms by name of the series. Default: none.
        targets: values of the metric to reach, beside the baseline's own on the tuning seeds. Default: 0.9 for
            val/accuracy, the target of arXiv 2511.01918; none for others.
        seeds: evaluation and tuning seeds.
        tuning: budget and shared settings.
        test: evaluate the final weights of the evaluation runs on the test data too. Default: False.
        short: names for long beginnings of keys, usable in ``set``, ``space`` and ``evaluation``: with
            "optimizer.lr" the learning rate is meant. Default: optimizer and perturbation.
        root: folder of all comparisons. Default: logs/compare.

    Raises:
        ValueError: for an unknown arm, seeds in both phases, a margin that is not positive, and the like.
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
            _require("arms", arm, arm and not set(arm) & set("/\\ \t") and arm[0] != ".", "names without / and spaces")
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
            _require(f"seeds.{phase}", seeds, len(set(seeds)) == len(seeds) > 0, "at least one, each once")
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
            _require(f"space of arm {name}", twice, not twice, "without a setting that is there twice")
        nested = [key for space in spaces for key, values in space.items() if any(isinstance(v, dict) for v in values)]
        _require("space", nested, not nested, "lists of numbers, words or lists; give a part of a setting its own key")

    def all_arms(self) -> list[str]:
        """Names of the arms and of their twins."""
        return [name for arm, spec in self.arms.items() for name in (arm, *(f"{arm}/{twin}" for twin in spec.twins))]

    def tuned_like(self, name: str) -> str | None:
        """The arm whose trials decide the settings of ``name``; None where that is not tuned itself."""
        arm = name.partition("/")[0]
        other = self.arms[arm].tuned_as
        if other is None:
            return arm
        parent = other.partition("/")[0]
        return parent if self.arms[parent].tuned_as is None else None

    def full(self, key: str) -> str:
        """A dotted key with its beginning written out."""
        first, dot, rest = key.partition(".")
        return f"{self.short.get(first, first)}{dot}{rest}"

    def declaration(self) -> dict[str, Any]:
        """What must not change once evaluation runs have been seen."""
        names = ("metric", "contrasts", "gatekeeper", "claims", "baseline", "seeds", "targets", "tuning")
        return {name: value for name, value in self.to_dict().items() if name in names}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @property
    def folder(self) -> Path:
        """Where its runs and results are."""
        return Path(self.root) / self.name


def add_arguments(parser: OneLineErrorParser) -> None:
    """Add ``--config`` and one argument for each setting of :class:`Comparison`."""
    parser.may_be_empty = ("arms",)
    parser.add_argument("-c", "--config", action="config", help="YAML; later ones over earlier ones")
    parser.add_class_arguments(Comparison, None)


def read_spec(config: Sequence[str | Path], overrides: Sequence[str] = ()) -> Comparison:
    """Read a comparison from files.

    Args:
        config: YAML files, later ones over earlier ones.
        overrides: further arguments, such as "--seeds.evaluation=[1,2,3]".

    Raises:
        ValueError: if it is invalid.
    """
    parser = OneLineErrorParser(prog="lightning-qsgd compare", exit_on_error=False)
    add_arguments(parser)
    arguments = [part for path in config for part in ("--config", find_config(path, comparison=True))]
    return from_options(parser.parse_args([*arguments, *overrides]).as_dict())


def from_options(options: dict[str, Any]) -> Comparison:
    """The comparison among the options of a command."""
    return to_comparison({name: options[name] for name in Comparison.__dataclass_fields__})


def to_comparison(values: dict[str, Any]) -> Comparison:
    """A comparison from plain values, as :meth:`Comparison.to_dict` gives them.

    Raises:
        ValueError: if they are invalid, or if a key is unknown.
    """
    return structured(values, Comparison)


def _require(name: str, value: Any, valid: Any, rule: str) -> None:
    if not valid:
        raise ValueError(f"Invalid {name}: {value!r}; it must be {rule}")
