"""Results made up from a seeded generator, with effects that are planted."""

from dataclasses import replace

import numpy as np

from lightning_qsgd.comparison.results import Results, Run
from lightning_qsgd.comparison.spec import Arm, Comparison, Contrast, Metric, Seeds, Tuning

MEASURED = {"max": "accuracy", "min": "loss"}  # by mode


def fake_results(
    effects,
    contrasts=(),
    *,
    name="fake",
    seeds=10,
    epochs=12,
    noise=0.005,
    diverged=(),
    failed=(),
    live=None,
    mode="max",
    unit="%",
    twins=None,
    tuned_as=None,
    trials=0,
    complete=True,
    data="v",
    **spec,
):
    """Results with a final value of 0.9 plus the arm's effect for each arm, which its mean keeps exactly.

    ``effects``: by arm, the first one is the baseline. ``contrasts``: names as "a - b". ``diverged``, ``failed``: pairs
    of arm and seed. ``live``: by arm. ``twins``, ``tuned_as``: by arm. ``data``: beginning of the digests of
    validation data.
    """
    twins, tuned_as, live = twins or {}, tuned_as or {}, live or {}
    baseline = next(iter(effects))
    comparison = Comparison(
        name=name,
        base=["configs/seqcls.yaml"],
        metric=Metric(0.01 if unit else 0.1, f"val/{MEASURED[mode]}", mode, unit=unit),
        arms={arm: Arm(twins=twins.get(arm, []), tuned_as=tuned_as.get(arm)) for arm in effects if "/" not in arm},
        baseline=baseline,
        contrasts=[Contrast(*contrast.split(" - ")) for contrast in contrasts],
        seeds=Seeds(evaluation=list(range(1, seeds + 1)), tuning=[101, 102]),
        tuning=Tuning(trials, {"optimizer.lr": [0.001, 0.003, 0.01]} if trials else {}),
        **spec,
    )
    rng = np.random.default_rng(7)
    shared = rng.normal(0, noise, seeds)
    runs = []
    for number, (arm, effect) in enumerate(effects.items()):
        own = rng.normal(0, noise, seeds)
        finals = 0.9 + effect + (shared - shared.mean()) + (own - own.mean() if arm != baseline else 0)
        for seed, final in enumerate(finals, 1):
            run = _run(arm, seed, final, epochs, mode, 1 + 0.05 * number)
            run.live = dict(live.get(arm, {}))
            run.hashes["validation"] = f"{data}{seed}"
            if (arm, seed) in diverged:
                curve = {key: column[:4] for key, column in run.curve.items()}
                curve[comparison.metric.name][-1] = None
                run = replace(
                    run, status="diverged", error="FloatingPointError: loss is nan", curve=curve, test={}, averaged={}
                )
            if (arm, seed) in failed:
                run = replace(run, status="failed", error="RuntimeError: out of memory", curve={}, test={}, averaged={})
            runs.append(run)
    tuning = [_run(baseline, seed, 0.9, epochs, mode, 1.0) for seed in (101, 102)]
    runs += [replace(run, phase="tuning", values={"optimizer.lr": 0.003} if trials else {}) for run in tuning]
    own = {}
    for arm in comparison.arms if trials else ():
        own[arm] = {"values": {"optimizer.lr": 0.003}, "default": {"optimizer.lr": 0.001}}
        if arm not in tuned_as:
            own[arm] |= {"trials": [{"values": [lr], "score": 0.9 - lr} for lr in (0.001, 0.003, 0.01)], "edge": []}
    provenance = {
        "command": "lightning-qsgd compare --config fake.yaml",
        "commit": "0123456789ab",
        "complete": complete,
    }
    provenance |= {"versions": {"python": "3.12", "torch": "2.13"}, "hardware": {"cores": 2, "memory_GB": 8.0}}
    targets = {"0.9": 0.9, "tuned baseline": 0.895}
    return Results(comparison, provenance, own, targets, {"p": {"w": "1"}}, runs)


def _run(arm, seed, final, epochs, mode, pace):
    """A curve whose last three values have the mean ``final``."""
    t = np.arange(1, epochs + 1)
    start = 0.25 if mode == "max" else 1.8
    values = final + (start - final) * np.exp(-t / 1.5)
    values += final - values[-3:].mean()
    curve = {
        "epoch": t.astype(float).tolist(),
        "step": (50.0 * t).tolist(),
        "seconds": (pace * (0.9 + 0.02 * seed) * t).tolist(),
        f"val/{MEASURED[mode]}": values.tolist(),
    }
    cost = {"seconds": curve["seconds"][-1] if epochs else 0.0, "evaluation_seconds": 1.0, "steps": 50.0 * epochs}
    cost |= {"examples": 1600.0 * epochs, "circuits": 0, "shots": 0, "circuit_seconds": 0.0, "peak_memory": 3 * 2**27}
    hashes = {"parameters": "p", "batches": [f"b{seed}e{e}" for e in t], "seeds": [f"s{seed}e{e}" for e in t]}
    ema = {f"val/{MEASURED[mode]}": float(final)}
    run = Run(arm, seed, "evaluation", "finished", curve=curve, averaged=ema, cost=cost, hashes=hashes)
    run.test = {f"test/{MEASURED[mode]}": float(final)}
    return run
