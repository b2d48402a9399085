"""What the quantum part of a training run does, said classically. Level 5."""

from lightning_qsgd.audit.findings import PerturbationFindings, Shares, Truncation

__all__ = ["PerturbationFindings", "Shares", "Truncation"]
