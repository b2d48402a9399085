"""The command ``audit``, and the comparison with classical twins that it proposes."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_qsgd.audit.conclusions import conclusion
from lightning_qsgd.audit.model_audit import audit_model
from lightning_qsgd.audit.page import write_audit
from lightning_qsgd.audit.perturbation import audit_perturbation
from lightning_qsgd.audit.recording import Recorder, replay
from lightning_qsgd.callbacks.run_summary import summary_table
from lightning_qsgd.comparison import write_report
from lightning_qsgd.comparison.analysis import analyse
from lightning_qsgd.comparison.command import train
from lightning_qsgd.comparison.spec import Arm, Comparison, Contrast, Metric, Seeds, Twin
from lightning_qsgd.comparison.wording import claims, summary
from lightning_qsgd.experiment import Experiment
from lightning_qsgd.files import atomic_write, check_writable
from lightning_qsgd.manual import add_options
from lightning_qsgd.optim import CircuitPerturbation, Perturbation, SinePerturbation
from lightning_qsgd.parser import KnownArgumentsParser
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
        _train(experiment, recorder)
    output = options.output or Path(experiment.trainer.default_root_dir) / "audit"
    title = f"Audit of {experiment.settings['experiment']}"
    trajectory, perturbation = recorder.trajectory(), recorder.perturbation
    findings: dict[str, Any] = {}
    if trajectory is not None and perturbation is not None:
        found = audit_perturbation(trajectory, perturbation)
        findings["perturbation"] = found
        write_audit(title, findings, output)  # remains if the audit of layers fails
    elif options.compare:
        raise ValueError("Invalid compare: it trains twins of a perturbation, but no step of this run was perturbed")
    for layer in audit_model(*experiment):
        findings[layer.name] = layer
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
    if options.compare and perturbation is not None:
        checkpoints = options.ckpt_path or Path(experiment.trainer.default_root_dir) / "checkpoints"
        again = f"continue with --ckpt_path {checkpoints} --compare -o {output}"
        judged = _compared(given, perturbation, output, options, again)
        write_audit(title, findings, output, judged)
        console.print(" ".join(judged), highlight=False)


def _train(experiment: Experiment, recorder: Recorder) -> None:
    """Train as ``fit`` does, with a recorder, and print the summary."""
    trainer = experiment.build().trainer
    if trainer.world_size > 1:
        raise ValueError(
            f"Invalid trainer.devices: {trainer.world_size} processes; an audit records in one: --trainer.devices 1"
        )
    trainer.callbacks.insert(0, recorder)  # type: ignore[attr-defined]  # before callbacks that clear what it reads
    try:
        result = experiment.fit()
    except (KeyboardInterrupt, SystemExit):
        print("Stopped; continue with fit --ckpt_path last, and then audit --ckpt_path last", file=sys.stderr)
        raise
    if trainer.is_global_zero and result.folder is not None:
        Console(width=160).print(summary_table(result.folder))


def _compared(
    arguments: list[str], perturbation: Perturbation, output: Path, options: argparse.Namespace, again: str
) -> list[str]:
    """Train the twins, and return the sentences of the verdict."""
    config = Experiment.typed(arguments).settings
    base = output / "config.yaml"
    base.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(base) as file:
        file.write(dump_yaml(config))
    comparison = comparison_of(base, config, perturbation, options.seeds, options.margin, output)
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
    base: Path, config: dict[str, Any], perturbation: Perturbation, seeds: int, margin: float, root: Path
) -> Comparison:
    """The comparison of a run with its classical twins.

    Its arms are "circuit", the run itself; its twins; "product", without entanglement; "sine"; and "adamw", with
    weight 0.

    Args:
        base: file of the complete configuration.
        config: its contents.
        perturbation: the run's fitted perturbation, which decides on the twins.
        seeds: number of evaluation seeds, at least 2.
        margin: the smallest difference of the metric that matters.
        root: folder of the comparison's folder.

    Raises:
        ValueError: see :func:`check_comparable`.
    """
    check_comparable(config, seeds)
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
    twins: list[Twin] = [twin for twin, means in meaningful.items() if means and kind]  # no kind: the default sine
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
    others = ["adamw", *(f"circuit/{twin}" for twin in twins), *(name for name in ("sine", "product") if name in arms)]
    keys = ["seed_everything"] + ["data.init_args.seed"] * ("seed" in config["data"].get("init_args", {}))
    monitor, mode = config["checkpoint"]["monitor"], config["checkpoint"]["mode"]
    return Comparison(
        name="twins",
        base=[str(base)],
        metric=Metric(margin=margin, name=monitor, mode=mode, last=3),
        arms=arms,
        baseline="adamw",
        set=settings,
        contrasts=[Contrast("circuit", other) for other in others],
        gatekeeper="circuit - adamw",
        claims={"circuit": [other for other in others if other in CLAIMED]},
        seeds=Seeds(evaluation=list(range(FIRST_SEED, FIRST_SEED + seeds)), tuning=[101, 102, 103], keys=keys),
        root=str(root),
    )


def check_comparable(config: dict[str, Any], seeds: int) -> None:
    """Check before hours of training that ``--compare`` can be done.

    Raises:
        ValueError: for fewer than 2 seeds, another optimizer, or a missing metric.
    """
    if seeds < 2:
        raise ValueError(f"Invalid seeds: {seeds}; paired statistics need at least 2")
    optimizer = config["model"].get("init_args", {}).get("optimizer") or {}
    if not {"quantum_weight", "scale", "scope"} <= optimizer.get("init_args", {}).keys() or not config["data"]:
        raise ValueError(
            "Invalid compare: the configuration must have data, and a SuperpositionalGradientDescent as "
            "model.init_args.optimizer, which --compare changes; or write your own comparison (docs/compare.md)"
        )
    if not config["checkpoint"]["monitor"]:
        raise ValueError("Invalid checkpoint.monitor: null; --compare judges that metric: set val/accuracy or another")
