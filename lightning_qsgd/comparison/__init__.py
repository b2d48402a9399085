"""Many runs as one experiment: arms, twins, seeds, statistics, a verdict. Level 4."""

from lightning_qsgd.comparison.spec import Comparison, read_spec

__all__ = ["Comparison", "read_spec"]
