"""Many runs as one experiment: arms, twins, seeds, statistics, a verdict. Level 4."""

from lightning_qsgd.comparison.report import write_report
from lightning_qsgd.comparison.results import Results, Run
from lightning_qsgd.comparison.runner import Runner
from lightning_qsgd.comparison.spec import Comparison, read_spec
from lightning_qsgd.comparison.statistics import Paired, paired
from lightning_qsgd.comparison.verdicts import Claim, Judgement, claim, judge

__all__ = [
    "Claim", "Comparison", "Judgement", "Paired", "Results", "Run", "Runner",
    "claim", "judge", "paired", "read_spec", "write_report",
]  # fmt: skip
