"""Make the audits in docs/results/audit, and a table of their findings: `python scripts/audits.py`.

Each audit trains configs/seqcls.yaml (seed 0, data seed 0, 12 epochs) with one change. Existing audits are not trained
again; only their pages are rewritten.
"""

import argparse
from pathlib import Path
from typing import Any

from lightning_qsgd.audit.conclusions import conclusion
from lightning_qsgd.audit.findings import AttentionFindings, PerturbationFindings, load_findings
from lightning_qsgd.audit.page import write_audit
from lightning_qsgd.cli import main as command
from lightning_qsgd.files import atomic_write
from lightning_qsgd.report.numbers import percent

PERTURBATION = "--model.optimizer.perturbation"
EXACT = f"{PERTURBATION}.sampler=lightning_qsgd.quantum.ExactSampler"
WHOLE = ["--model.optimizer.scope=all", "--model.optimizer.scale=adam"]
BASE = ["--config", "configs/seqcls.yaml"]


def circuit(*options: str) -> list[str]:
    """The circuit with some options, on all coordinates, scaled to Adam's step, simulated exactly."""
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


def row(name: str, key: str, found: Any) -> str:
    """The line of the table about a finding."""
    shares, frozen = ["-"] * 4, "-"
    if isinstance(found, PerturbationFindings):
        frozen = percent(found.maps["frozen at step 0"])
    if not isinstance(found, AttentionFindings) and found.shares is not None:
        shares = [percent(share) for share in found.shares.parts().values()]
    return f"| [{name}]({name}/audit.md): {key} | {' | '.join(shares)} | {frozen} | {' '.join(conclusion(found))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("docs/results/audit"),
        help="folder to write to. Default: docs/results/audit",
    )
    parser.add_argument("--only", nargs="+", choices=list(AUDITS), default=list(AUDITS), metavar="NAME")
    options = parser.parse_args()
    for name in options.only:
        if not (options.folder / name / "findings.json").is_file():
            print(f"== {name}", flush=True)
            quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
            named = [f"--experiment=audit_{name}", "-o", str(options.folder / name)]
            command(["audit", *AUDITS[name], *quiet, *named])
    header = ["audit: part", "constant", "single-angle", "multi-angle", "rest", "frozen at step 0", "conclusion"]
    lines = [f"| {' | '.join(header)} |", "| :--- | ---: | ---: | ---: | ---: | ---: | :--- |"]
    for name in AUDITS:
        folder = options.folder / name
        if (folder / "findings.json").is_file():
            found = load_findings(folder / "findings.json")
            write_audit(f"Audit: {name}", found, folder)
            lines += [row(name, key, one) for key, one in found.items()]
    with atomic_write(options.folder / "table.md") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
