"""The command ``audit``, and the comparison with classical twins that it proposes."""

import argparse
import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from rich.console import Console
from torch import nn

from lightning_qsgd.audit.conclusions import conclusion
from lightning_qsgd.audit.model_audit import audit_model
from lightning_qsgd.audit.page import write_audit
from lightning_qsgd.audit.perturbation import audit_perturbation
from lightning_qsgd.audit.recording import Recorder, replay
from lightning_qsgd.callbacks.run_summary import summary_table
from lightning_qsgd.comparison import write_report
from lightning_qsgd.comparison.analysis import analyse
from lightning_qsgd.comparison.command import train
from lightning_qsgd.comparison.spec import AnyTwin, Arm, Comparison, Contrast, Metric, Seeds, Twin
from lightning_qsgd.comparison.wording import claims, summary
from lightning_qsgd.experiment import Experiment
from lightning_qsgd.files import atomic_write, check_writable
from lightning_qsgd.manual import add_options
from lightning_qsgd.optim import CircuitPerturbation, Perturbation, SinePerturbation
from lightning_qsgd.parser import KnownArgumentsParser
from lightning_qsgd.twin_names import LAYER_TWINS, LayerTwin, NoTwinError
from lightning_qsgd.yaml_files import dump_yaml


def audit(arguments: Sequence[str]) -> None:
    """Train, or replay checkpoints, and write a page about what the quantum part did.

    Args:
        arguments: arguments of the command line, without the command's name.

    Raises:
        ValueError: if the configuration has no quantum part, or too few of its values were recorded.
    """
    options, overrides = _parser().parse_known_args(list(arguments))
    given = [part for path in options.config for part in ("--config", path)] + overrides
    if options.output is not None:
        check_writable(options.output / "audit.html")
    if options.compare:
        check_comparable(Experiment.typed(given).settings, options.seeds)
    recorder, experiment = Recorder(), Experiment.typed(given)
    if options.ckpt_path is not None:
        replay(experiment, options.ckpt_path, recorder)
    else:
        _train(experiment, recorder, options.compare)
    output = options.output or Path(experiment.trainer.default_root_dir) / "audit"
    title = f"Audit of {experiment.settings['experiment']}"
    trajectory, perturbation = recorder.trajectory(), recorder.perturbation
    findings: dict[str, Any] = {}
    if trajectory is not None and perturbation is not None:
        findings["perturbation"] = audit_perturbation(trajectory, perturbation)
    try:
        twins = layer_twins_of(experiment.module) if options.compare else []
        if options.compare and not twins and not (findings and has_perturbation(experiment.settings)):
            raise ValueError(NO_TWINS)
        for layer in audit_model(*experiment):
            findings[layer.name] = layer
    except BaseException:
        if findings:
            write_audit(title, findings, output)
        raise
    if not findings:
        raise ValueError(
            "Nothing to audit: no step was perturbed (no SuperpositionalGradientDescent, or its quantum_weight or lr "
            "is 0), and the model has no QuantumLayer, QuantumAttention or TorchConnector"
        )
    console = Console(width=120)
    written = write_audit(title, findings, output)
    for one in findings.values():
        console.print(" ".join(conclusion(one)), highlight=False)
    console.print(f"Audit: {written[0]}", highlight=False, soft_wrap=True)
    if options.compare:
        checkpoints = options.ckpt_path or Path(experiment.trainer.default_root_dir) / "checkpoints"
        again = f"continue with --ckpt_path {checkpoints} --compare -o {output}"
        judged = _compared(given, perturbation if findings.get("perturbation") else None, twins, output, options, again)
        write_audit(title, findings, output, judged)
        console.print(" ".join(judged), highlight=False)


NO_TWINS = (
    "Invalid compare: the run has no twins. It needs a model with a QuantumLayer, or a SuperpositionalGradientDescent "
    "as model.init_args.optimizer that perturbs steps; or write your own comparison (docs/compare.md)"
)


class _NeedsTwins(L.Callback):
    """Refuses a run without twins before it trains.

    Args:
        perturbed: whether its optimizer has a perturbation that twins can replace.
    """

    def __init__(self, perturbed: bool) -> None:
        self.perturbed = perturbed

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        from lightning_qsgd.quantum.layer_twins import circuits_of

        if not self.perturbed and not circuits_of(pl_module):
            raise ValueError(NO_TWINS)


def layer_twins_of(module: nn.Module) -> list[LayerTwin]:
    """The twins of a model's circuit layers that can be built. Those that cannot are named, with the reason.

    Args:
        module: the model.

    Raises:
        ValueError: if the model has twins already.
    """
    from lightning_qsgd.quantum.layer_twins import CircuitTwin, circuits_of, other_circuits, replace_circuits

    if own := next((part.kind for part in module.modules() if isinstance(part, CircuitTwin)), None):
        raise ValueError(f"Invalid compare: this run trained with replace_circuits: {own}; audit that of its circuit")
    layers = circuits_of(module)
    if not layers:
        return []
    if others := other_circuits(module):
        print(f"No twins of circuit layers: {', '.join(others)} would stay")
        return []
    found: list[LayerTwin] = []
    for kind in LAYER_TWINS:
        try:
            for name, layer in layers.items():
                replace_circuits(nn.ModuleDict({name.replace(".", "/"): copy.deepcopy(layer)}), kind)
        except NoTwinError as error:
            print(f"Without the twin {kind}: {error}")
        else:
            found.append(kind)
    return found


def _train(experiment: Experiment, recorder: Recorder, compare: bool) -> None:
    """Train as ``fit`` does, with a recorder, and print the summary. To ``compare``, the run must have twins."""
    trainer = experiment.build().trainer
    if trainer.world_size > 1:
        raise ValueError(
            f"Invalid trainer.devices: {trainer.world_size} processes; an audit records in one: --trainer.devices 1"
        )
    trainer.callbacks.insert(0, recorder)  # type: ignore[attr-defined]  # before callbacks that clear what it reads
    if compare:
        trainer.callbacks.append(_NeedsTwins(has_perturbation(experiment.settings)))  # type: ignore[attr-defined]
    try:
        result = experiment.fit()
    except (KeyboardInterrupt, SystemExit):
        print("Stopped; continue with fit --ckpt_path last, and then audit --ckpt_path last", file=sys.stderr)
        raise
    if trainer.is_global_zero and result.folder is not None:
        Console(width=160).print(summary_table(result.folder))


def _compared(
    arguments: list[str],
    perturbation: Perturbation | None,
    layers: list[LayerTwin],
    output: Path,
    options: argparse.Namespace,
    again: str,
) -> list[str]:
    """Train the twins, and return the sentences of the verdict."""
    config = Experiment.typed(arguments).settings
    base = output / "config.yaml"
    base.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(base) as file:
        file.write(dump_yaml(config))
    comparison = comparison_of(base, config, perturbation, options.seeds, options.margin, output, layers)
    results = train(comparison, options.workers, again=again)
    write_report([results], comparison.folder)
    analysis = analyse(results)
    return [*summary(analysis), *claims(analysis)]


def _parser() -> KnownArgumentsParser:
    parser = KnownArgumentsParser(
        "lightning-qsgd audit",
        description="Train as fit does, and explain in classical terms what the quantum part did: which share of its "
        "power is constant, depends on one angle, depends on several, or is noise, and which classical map has the "
        "same effect. Further arguments override the configuration, as with fit.",
    )
    add_options("audit", parser)
    return parser


CLAIMED = ("adamw", "circuit/frozen", "circuit/shuffled", "sine")  # arms that a circuit-specific effect must beat
FIRST_SEED = 501  # shipped comparisons use lower seeds


def comparison_of(
    base: Path,
    config: dict[str, Any],
    perturbation: Perturbation | None,
    seeds: int,
    margin: float,
    root: Path,
    layers: Sequence[LayerTwin] = (),
) -> Comparison:
    """The comparison of a run with its classical twins.

    Its arms are "circuit", the run itself, and its twins. With a perturbation they are also "product", without
    entanglement; "sine"; and "adamw", with weight 0. Without one, the baseline is the first of "linear" and the other
    twins of circuit layers.

    Args:
        base: file of the complete configuration.
        config: its contents.
        perturbation: the run's fitted perturbation, which decides on its twins. None if no step was perturbed.
        seeds: number of evaluation seeds, at least 2.
        margin: the smallest difference of the metric that matters.
        root: folder of the comparison's folder.
        layers: twins of circuit layers; at least one without a perturbation. Default: none.

    Raises:
        ValueError: see :func:`check_comparable`.
    """
    check_comparable(config, seeds)
    if perturbation is None or not has_perturbation(config):
        arms, settings = {"circuit": Arm(twins=[*layers])}, {}
        baseline = f"circuit/{'linear' if 'linear' in layers else layers[0]}"
        others, gatekeeper, claimed = [], None, []
    else:
        arms, settings = _arms_of(config, perturbation, layers)
        baseline, gatekeeper, claimed = "adamw", "circuit - adamw", [*CLAIMED]
        twins = [f"circuit/{twin}" for twin in arms["circuit"].twins if twin not in layers]
        others = ["adamw", *twins, *(name for name in ("sine", "product") if name in arms)]
    replaced = [f"circuit/{twin}" for twin in layers]
    keys = ["seed_everything"] + ["data.init_args.seed"] * ("seed" in config["data"].get("init_args", {}))
    monitor, mode = config["checkpoint"]["monitor"], config["checkpoint"]["mode"]
    return Comparison(
        name="twins",
        base=[str(base)],
        metric=Metric(margin=margin, name=monitor, mode=mode, last=3),
        arms=arms,
        baseline=baseline,
        set=settings,
        contrasts=[
            *(Contrast("circuit", other) for other in others),
            *(Contrast("circuit", other, "shared") for other in replaced),
        ],
        gatekeeper=gatekeeper,
        claims={"circuit": [*(other for other in others if other in claimed), *replaced]},
        seeds=Seeds(evaluation=list(range(FIRST_SEED, FIRST_SEED + seeds)), tuning=[101, 102, 103], keys=keys),
        root=str(root),
    )


def _arms_of(
    config: dict[str, Any], perturbation: Perturbation, layers: Sequence[LayerTwin]
) -> tuple[dict[str, Arm], dict[str, Any]]:
    """The arms of a run with a perturbation, and settings of all of them."""
    optimizer = config["model"]["init_args"]["optimizer"]["init_args"]
    given: dict[str, Any] = optimizer.get("perturbation") or {}
    settings: dict[str, Any] = {}
    if twin := optimizer.get("twin"):  # written out, so that it has twins, and the sine is not its twin
        inner = {"kind": twin, "reference": optimizer.get("perturbation")}
        given = {"class_path": "lightning_qsgd.optim.ControlPerturbation", "init_args": inner}
        settings = {"optimizer.perturbation": given, "optimizer.twin": None}
    kind = given.get("class_path", "").rpartition(".")[2]
    has_series = isinstance(perturbation, CircuitPerturbation) and perturbation.series is not None
    meaningful: dict[Twin, bool] = {
        "frozen": True,
        "constant": True,
        "shuffled": True,
        "scalar": (optimizer["scale"], optimizer["scope"]) == ("adam", "all"),
        "series": has_series,
    }
    twins: list[AnyTwin] = [twin for twin, means in meaningful.items() if means and kind]  # no kind: the default sine
    twins += layers
    arms = {"adamw": Arm(set={"optimizer.quantum_weight": 0.0}), "circuit": Arm(twins=twins)}
    if not isinstance(perturbation, SinePerturbation):
        size = {"num_qubits": perturbation.num_qubits}
        sine = {"class_path": "lightning_qsgd.optim.SinePerturbation", "init_args": size}
        arms["sine"] = Arm(set={"optimizer.perturbation": sine})
    if (
        kind in ("CircuitPerturbation", "LiveCircuitPerturbation")
        and given["init_args"]["entanglement"] == "linear"
        and not given["init_args"].get("calibration")
    ):
        arms["product"] = Arm(set={"perturbation.entanglement": "none", "perturbation.decode_chain": False})
    return arms, settings


def has_perturbation(config: dict[str, Any]) -> bool:
    """Whether a configuration has an optimizer whose perturbation can be replaced."""
    optimizer = config["model"].get("init_args", {}).get("optimizer") or {}
    return {"quantum_weight", "scale", "scope"} <= optimizer.get("init_args", {}).keys()


def check_comparable(config: dict[str, Any], seeds: int) -> None:
    """Check before hours of training that ``--compare`` can be done.

    Raises:
        ValueError: for fewer than 2 seeds, missing data, or a missing metric.
    """
    if seeds < 2:
        raise ValueError(f"Invalid seeds: {seeds}; paired statistics need at least 2")
    if not config["data"]:
        raise ValueError("Invalid compare: the configuration has no data; write your own comparison (docs/compare.md)")
    if not config["checkpoint"]["monitor"]:
        raise ValueError("Invalid checkpoint.monitor: null; --compare judges that metric: set val/accuracy or another")
