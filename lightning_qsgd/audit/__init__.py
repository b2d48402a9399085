"""Audits: explain in classical terms what the quantum part of a training run does. Level 5."""

from lightning_qsgd.audit.findings import (
    AttentionFindings,
    LayerFindings,
    PerturbationFindings,
    Shares,
    Truncation,
    load_findings,
)

__all__ = ["AttentionFindings", "LayerFindings", "PerturbationFindings", "Shares", "Truncation", "load_findings"]
