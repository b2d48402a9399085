"""The level at which runs are paired is read off their hashes, and a contrast that declares more is refused."""

import pytest

from lightning_qsgd.comparison.pairing import check_levels, level_of, level_of_contrast
from lightning_qsgd.comparison.results import Results, Run
from lightning_qsgd.comparison.spec import Arm, Comparison, Contrast, Metric

SETS = {"A": {"w": "1", "b": "2"}, "B": {"w": "1", "b": "2", "c": "3"}, "C": {"w": "9", "b": "2"}, "D": {"z": "1"}}


def run(arm="a", parameters="A", batches=("x", "y"), seeds=("s", "t"), seed=1):
    hashes = {"parameters": parameters, "batches": list(batches), "seeds": list(seeds)}
    return Run(arm, seed, "evaluation", "finished", hashes=hashes)


@pytest.mark.parametrize(
    ("other", "level", "why"),
    [
        ({}, "full", ""),
        ({"batches": ["x"], "seeds": ["s"]}, "full", ""),  # it ended early
        ({"parameters": "B"}, "shared", "parameters of only one arm: c"),
        ({"parameters": "C"}, "data", "other initial values of w"),
        ({"parameters": "D"}, "data", "other initial values of all parameters"),
        ({"seeds": ["s", "u"]}, "data", "other seeds of the steps from epoch 2 on"),
        ({"batches": ["z", "y"]}, None, "other batches from epoch 1 on"),
    ],
)
def test_levels(other, level, why):
    assert level_of(run(), run(**other), SETS) == (level, why)


def results(level, **other):
    metric, arms = Metric(margin=0.01), {"a": Arm(), "b": Arm()}
    contrasts = [Contrast("b", "a", level)]
    comparison = Comparison(name="t", base=["x"], metric=metric, arms=arms, baseline="a", contrasts=contrasts)
    runs = [run(seed=1), run("b", seed=1), run(seed=2), run("b", seed=2, **other)]
    return Results(comparison, parameter_sets=SETS, runs=runs)


def test_a_contrast_has_the_weakest_level_of_its_seeds():
    assert level_of_contrast(results("full", parameters="B"), "b", "a")[0] == "shared"
    check_levels(results("shared", parameters="B"))


def test_a_contrast_that_declares_too_much_is_refused():
    with pytest.raises(ValueError, match=r"b - a: 'full'; its runs share shared .*only one arm: c.*level: shared"):
        check_levels(results("full", parameters="B"))
    with pytest.raises(ValueError, match="share nothing"):
        check_levels(results("data", batches=["q"]))
