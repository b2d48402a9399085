"""The comparison that an audit proposes: the run, its classical twins, and AdamW."""

from pathlib import Path
from typing import Any

from lightning_qsgd.comparison.spec import Arm, Comparison, Contrast, Metric, Seeds, Twin
from lightning_qsgd.optim import CircuitPerturbation, Perturbation, SinePerturbation

CLAIMED = ("adamw", "circuit/frozen", "circuit/shuffled", "sine")  # what a circuit-specific effect must beat
FIRST_SEED = 501  # others tune and evaluate on lower ones


def comparison_of(
    base: Path, config: dict[str, Any], perturbation: Perturbation, seeds: int, margin: float, root: Path
) -> Comparison:
    """Arms: "circuit", the run as it is; its twins; "product", without entanglement; "sine"; and "adamw", weight 0.

    Args:
        base: file of the complete configuration.
        config: its contents.
        perturbation: that of the run, fitted: what it is decides which twins there are.
        seeds: evaluation seeds, at least 2.
        margin: smallest difference of the metric that matters.
        root: folder to run in.

    Raises:
        ValueError: as :func:`check_comparable`.
    """
    check_comparable(config, seeds)
    optimizer = config["model"]["init_args"]["optimizer"]["init_args"]
    given: dict[str, Any] = optimizer.get("perturbation") or {}
    settings: dict[str, Any] = {}
    if twin := optimizer.get("twin"):  # written out, so that it has twins, and the sine is no twin of the sine
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
    """Refuse what ``--compare`` cannot do, before hours of training.

    Raises:
        ValueError: for too few seeds, another optimizer, or no metric.
    """
    if seeds < 2:
        raise ValueError(f"Invalid seeds: {seeds}; paired statistics need at least 2")
    optimizer = config["model"].get("init_args", {}).get("optimizer") or {}
    if not {"quantum_weight", "scale", "scope"} <= optimizer.get("init_args", {}).keys() or not config["data"]:
        raise ValueError(
            "Invalid compare: it changes model.init_args.optimizer, which must be a SuperpositionalGradientDescent in "
            "the configuration, beside data; write a comparison of your own (docs/compare.md)"
        )
    if not config["checkpoint"]["monitor"]:
        raise ValueError("Invalid checkpoint.monitor: null; --compare judges that metric: name one, as val/accuracy")
