"""A comparison is read from YAML, and an invalid one is refused with the value that is wrong."""

import pytest
import yaml

from lightning_qsgd.comparison import read_spec
from lightning_qsgd.comparison.spec import to_comparison

VALID = {
    "name": "t",
    "base": ["configs/seqcls.yaml"],
    "metric": {"margin": 0.01},
    "baseline": "adamw",
    "arms": {"adamw": {"overlays": ["configs/overlay/adamw.yaml"]}, "circuit": {"twins": ["frozen", "scalar"]}},
    "contrasts": [{"arm": "circuit", "against": "adamw"}, {"arm": "circuit", "against": "circuit/frozen"}],
    "gatekeeper": "circuit - adamw",
    "claims": {"circuit": ["adamw", "circuit/frozen"]},
}


def read(tmp_path, *overrides, **changes):
    path = tmp_path / "comparison.yaml"
    path.write_text(yaml.safe_dump(VALID | changes))
    return read_spec([path], overrides)


def test_twins_are_arms(tmp_path):
    comparison = read(tmp_path)
    assert comparison.all_arms() == ["adamw", "circuit", "circuit/frozen", "circuit/scalar"]
    assert comparison.tuned_like("circuit/frozen") == "circuit"
    assert [contrast.level for contrast in comparison.contrasts] == ["full", "full"]


def test_plain_values_make_the_same_comparison(tmp_path):
    comparison = read(tmp_path)
    assert to_comparison(comparison.to_dict()) == comparison


def test_an_unknown_key_is_refused():
    with pytest.raises(ValueError, match="unknown: 'basis'"):
        to_comparison(VALID | {"basis": []})


def test_arguments_override_the_file(tmp_path):
    assert read(tmp_path, "--seeds.evaluation=[4,5]").seeds.evaluation == [4, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "adam"}, "Invalid baseline: 'adam'"),
        ({"metric": {"margin": 0}}, "Invalid metric.margin: 0"),
        ({"metric": {"margin": 0.01, "last": 0}}, "Invalid metric.last: 0"),
        ({"contrasts": [{"arm": "x", "against": "adamw"}], "gatekeeper": None}, "Invalid contrasts: 'x'"),
        ({"contrasts": VALID["contrasts"][:1] * 2}, r"Invalid contrasts: \['circuit - adamw'\]"),
        ({"gatekeeper": "adamw - circuit"}, "Invalid gatekeeper: 'adamw - circuit'"),
        ({"claims": {"circuit": ["sine"]}}, "Invalid claims: 'sine'"),
        ({"seeds": {"evaluation": [1, 2], "tuning": [2]}}, r"Invalid seeds: \[2\]"),
        ({"seeds": {"evaluation": [1, 1]}}, r"Invalid seeds.evaluation: \[1, 1\]"),
        ({"arms": VALID["arms"] | {"a/b": {}}}, "Invalid arms: 'a/b'"),
        ({"arms": VALID["arms"] | {"b": {"tuned_as": "c"}}}, "Invalid tuned_as: 'c'"),
        ({"arms": VALID["arms"] | {"b": {"tuned_as": "c"}, "c": {"tuned_as": "b"}}}, "Invalid tuned_as"),
        ({"tuning": {"trials": -1}}, "Invalid tuning.trials: -1"),
        ({"tuning": {"trials": 3, "space": {"a": []}}}, r"Invalid space: \['a'\]"),
        ({"tuning": {"trials": 3, "space": {"a": [{"b": 1}]}}}, r"Invalid space: \['a'\].*its own key"),
    ],
)
def test_what_is_invalid_is_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **changes)


def test_settings_stay_as_they_are_written(tmp_path):
    settings = {"model.init_args.scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {}}}
    comparison = read(tmp_path, set=settings, arms=VALID["arms"] | {"a": {"set": settings}})
    assert comparison.set == comparison.arms["a"].set == settings


@pytest.mark.parametrize(
    ("metric", "mode", "unit", "targets"),
    [
        ({}, "max", "%", [0.9]),
        ({"name": "val/loss"}, "min", "", []),
        ({"name": "val/f1"}, "max", "%", []),
        ({"name": "val/energy"}, "max", "", []),
        ({"name": "val/energy", "mode": "min"}, "min", "", []),
    ],
)
def test_defaults_suit_the_metric(tmp_path, metric, mode, unit, targets):
    comparison = read(tmp_path, metric={"margin": 0.01} | metric)
    assert (comparison.metric.mode, comparison.metric.unit, comparison.targets) == (mode, unit, targets)


def test_a_direction_that_the_metric_does_not_have_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"Invalid metric.mode: 'max'; lower val/mse is better: set metric.mode to min"
    ):
        read(tmp_path, metric={"margin": 0.01, "name": "val/mse", "mode": "max"})
