"""Findings made up, with shares that are planted."""

import numpy as np

from lightning_qsgd.audit.findings import PerturbationFindings, Shares, Truncation

TENSORS = ("model.embedding.weight", "model.layers.0.weight", "model.layers.0.bias", "model.head.weight")


def fake_shares(constant=0.9, single=0.06, multi=0.03, rest=0.01, power=0.5, rows=1000, weight=None):
    """Shares of which each has a size unless told."""
    return Shares(constant, single, multi, rest, power, rows, float(rows) if weight is None else weight)


def fake_findings(
    *, shares=None, qubits=4, steps=32, tensors=TENSORS, spans=8, seed=0, settings=None, **changes
) -> PerturbationFindings:
    """Findings of a run with as many recorded steps; ``changes`` replace single attributes."""
    whole = shares or fake_shares(rows=1000 * len(tensors))
    rng = np.random.default_rng(seed)
    each = [fake_shares(x, 0.8 - x, 0.15, 0.05, power=whole.power * (0.5 + x)) for x in rng.uniform(0.1, 0.8, 400)]
    every = [25 * i for i in range(steps)]
    true = rng.uniform(-0.9, 0.5, 200)
    values = {
        "identity": f"CircuitPerturbation(center=None, depth=2, entanglement=linear, num_qubits={qubits})",
        "settings": {"quantum_weight": 0.5, "scale": "adam", "target": "update", "coupling": "lr", "scope": "all"}
        | {"lr": 0.001}
        | (settings or {}),
        "steps": every,
        "coordinates": (79_364, 16_000),
        "shares": whole,
        "intervals": {name: (max(x - 0.005, 0.0), min(x + 0.005, 1.0)) for name, x in whole.parts().items()},
        "per_qubit": [fake_shares(power=whole.power) for _ in range(qubits)],
        "per_tensor": dict(zip(tensors, each, strict=False)),
        "over_time": {every[steps * i // spans]: each[i] for i in range(spans)},
        "uniform": fake_shares(0.001, 0.2, 0.799, 0.0, power=0.125, rows=0),
        "maps": {
            "one number": 0.62,
            "one per qubit": 0.9,
            "one per tensor": 0.911,
            "one per coordinate": 0.97,
            "frozen at step 0": 0.88,
            "sine": -0.35,
            "sine and constant": 0.64,
            "one-angle series": 0.96,
        },
        "sine_amplitude": 0.1234,
        "offset": -0.71,
        "spread": 0.2,
        "learning_rate_factor": 0.645,
        "truncation": Truncation(0.01, 37, 2500, 0.0123, 3),
        "device_error": 0.00002,
        "norm_ratio": 0.36,
        "effective": 0.97,
        "points": ("one per coordinate", [(float(s), float(s + e)) for s, e in zip(true, rng.normal(0, 0.05, 200))]),
        "circuits": 625,
        "shots": 0,
        "sampled": False,
    }
    return PerturbationFindings(**(values | changes))
