"""Made-up findings about parts of a model."""

from lightning_qsgd.audit.findings import AttentionFindings, HeadFindings, LayerFindings, Replacement, Shares


def replacement(name, value, lost=0, gained=0):
    return Replacement(name, {"constant": 1, "single-angle part": 2}.get(name, 3), 0.5, value, lost, gained)


def layer_findings(metric, replacements, shares=Shares(0.2, 0.3, 0.4, 0.1, 0.25, 2000), outputs=2):  # noqa: B008
    names = [f"Z{q}" for q in range(outputs)]
    points = [[0.1 * k, 0.1 * k - 0.05] for k in range(20)]
    best = replacements[-1].name if replacements else ""
    rows = [2000, 2000] if replacements else [0, 0]
    notes = [] if replacements else ["A note."]
    return LayerFindings(
        "model.head.circuit", "4 qubits, 4 angles, 12 weights", "AerSampler", rows, names, shares,
        [shares] * outputs if shares else [], 625, metric, replacements, notes, best, points if replacements else [],
        3000, 3_072_000,
    )  # fmt: skip


def attention_findings(metric, replacements, heads=2):
    curve = [[0.1 * k, 0.02 * k * k, 0.1 * k] for k in range(-20, 21)]
    found = [
        HeadFindings(h, 0.5, 0.3, 0.2, 0.04, 1.2 if h == 0 else 4.0, 1.5, 20_000, curve, [1, 5, 9, 5, 1])
        for h in range(heads)
    ]
    layers = 2 if len(replacements) > 2 else 1
    return AttentionFindings(
        "model.blocks.0.attention", "circuit", "probability", "simulator", 8, found if replacements else [], metric,
        replacements, layers, [] if replacements else ["A note."],
    )  # fmt: skip
