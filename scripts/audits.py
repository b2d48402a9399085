"""The audits in docs/results/audit, and a table of what they found: `python scripts/audits.py`.

Each trains configs/seqcls.yaml (seed 0, data seed 0, 12 epochs) with one thing changed. What is there is not repeated.
"""

import argparse
import json
from pathlib import Path

from lightning_qsgd.audit.conclusions import conclude
from lightning_qsgd.audit.findings import PerturbationFindings
from lightning_qsgd.audit.model_conclusions import attention_conclusion, layer_conclusion
from lightning_qsgd.audit.model_findings import AttentionFindings, LayerFindings
from lightning_qsgd.audit.saved import load_findings
from lightning_qsgd.cli import main as command
from lightning_qsgd.comparison.numbers import percent
from lightning_qsgd.files import atomic_write

PERTURBATION = "--model.optimizer.perturbation"
EXACT = f"{PERTURBATION}.sampler=lightning_qsgd.quantum.ExactSampler"
WHOLE = ["--model.optimizer.scope=all", "--model.optimizer.scale=adam"]
BASE = ["--config", "configs/seqcls.yaml"]


def circuit(*options: str) -> list[str]:
    """The circuit with some options, on every coordinate, as large as Adam's step, simulated exactly."""
    return [*BASE, EXACT, *WHOLE, *(f"{PERTURBATION}.{option}" for option in options)]


MANILA = [*BASE, *WHOLE, "--config", "configs/overlay/fake_manila.yaml", f"{PERTURBATION}.rotations=zero"]
AUDITS = {
    "letter": [*BASE, "--config", "configs/overlay/zero_rotations.yaml", EXACT],
    "zero": circuit("rotations=zero"),
    "aligned": circuit("rotations=aligned"),
    "random": circuit("rotations=random"),
    "depth_1": circuit("rotations=zero", "depth=1"),
    "depth_3": circuit("rotations=zero", "depth=3"),
    "random_depth_1": circuit("rotations=random", "depth=1"),
    "zero_product": circuit("rotations=zero", "entanglement=none"),
    "random_product": circuit("rotations=random", "entanglement=none"),
    "shots_1024": [*BASE, *WHOLE, f"{PERTURBATION}.rotations=zero", f"{PERTURBATION}.shot_noise=1024"],
    "fake_manila": MANILA,
    "quantum_head": ["--config", "configs/seqcls_quantum_head.yaml"],
    "quantum_attention": ["--config", "configs/seqcls_quantum_attention.yaml"],
}


def row(name: str, path: Path) -> list[str]:
    """Lines of the table about one audit."""
    lines = []
    for key in json.loads(path.read_text())["findings"]:
        shares, frozen = ["-"] * 4, "-"
        if key == "perturbation":
            found = load_findings(path, key, PerturbationFindings)
            shares = [percent(share) for share in found.shares.parts().values()]
            frozen, said = percent(found.maps["frozen at step 0"]), " ".join(conclude(found))
        elif name == "quantum_attention":
            said = " ".join(attention_conclusion(load_findings(path, key, AttentionFindings)))
        else:
            layer = load_findings(path, key, LayerFindings)
            shares = [percent(share) for share in layer.shares.parts().values()] if layer.shares else shares
            said = layer_conclusion(layer)
        lines.append(f"| [{name}: {key}]({name}/audit.md) | {' | '.join(shares)} | {frozen} | {said} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("docs/results/audit"), help="Default: docs/results/audit")
    parser.add_argument("--only", nargs="+", choices=list(AUDITS), default=list(AUDITS), metavar="NAME")
    options = parser.parse_args()
    for name in options.only:
        if not (options.folder / name / "findings.json").is_file():
            print(f"== {name}", flush=True)
            quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
            named = [f"--experiment=audit_{name}", "-o", str(options.folder / name)]
            command(["audit", *AUDITS[name], *quiet, *named])
    header = ["audit", "constant", "single-angle", "multi-angle", "rest", "frozen at step 0", "conclusion"]
    lines = [f"| {' | '.join(header)} |", "| :--- | ---: | ---: | ---: | ---: | ---: | :--- |"]
    for name in AUDITS:
        if (options.folder / name / "findings.json").is_file():
            lines += row(name, options.folder / name / "findings.json")
    with atomic_write(options.folder / "table.md") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
