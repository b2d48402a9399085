"""Sentences follow from numbers, by rules."""

from dataclasses import replace

from lightning_qsgd.audit.conclusions import MAPS, conclude, simplest
from lightning_qsgd.audit.findings import Truncation
from tests.audit.common import fake_findings


def maps(**values):
    return dict.fromkeys(MAPS, 0.1) | {name.replace("_", " "): value for name, value in values.items()}


def shares(**values):
    return replace(fake_findings().shares, **values)


def found(**values):
    return replace(fake_findings(), norm_ratio=0.3, device_error=None, **values)


def test_the_simplest_map_that_suffices_is_named():
    everything = dict.fromkeys(MAPS, 0.99)
    assert simplest(everything) == "one number"
    assert simplest(everything | {"one number": 0.9}) == "one per qubit"
    assert simplest(maps(frozen_at_step_0=0.96)) == "frozen at step 0"
    assert simplest(maps()) is None
    whole = conclude(found(maps=everything, shares=shares(constant=1.0, multi=0.0)))[0]
    assert whole.endswith("to 99.00 % of its power. Frozen at step 0, its values reproduce 99.00 %.")
    first, *_ = conclude(found(maps=maps(frozen_at_step_0=0.998), shares=shares(constant=1.0, multi=0.0)))
    assert first == "The perturbation is a table of numbers that is frozen at step 0, to 99.80 % of its power."


def test_several_angles_are_named_with_the_series_that_replaces_them():
    series = Truncation(error=0.01, terms=31, candidates=2500, left=0.009, largest=3)
    sentences = conclude(
        found(maps=maps(**{"one-angle series": 0.7}), shares=shares(multi=0.3, single=0.7), truncation=series)
    )
    assert sentences == [
        "No simple classical map is the perturbation: the best, a sum of functions of one weight each, reproduces "
        "70.00 % of its power.",
        "30.00 % of it depends on several weights together.",
        "A classical series of 31 of 2,500 terms gives all of it but 0.90 %.",
    ]
    whole = conclude(found(maps=maps(), shares=shares(multi=0.3), truncation=replace(series, left=0.0)))
    assert whole[-1] == "A classical series of 31 of 2,500 terms gives all of it."
    unreached = replace(series, terms=None)
    assert "series" not in conclude(found(maps=maps(), shares=shares(multi=0.3), truncation=unreached))[-1]


def test_little_of_several_angles_is_said_to_be_little():
    sentences = conclude(found(maps=maps(sine=0.97), shares=shares(multi=0.02)))
    assert sentences[-1] == "2.00 % of it depends on several weights together."
    nothing = conclude(found(maps=maps(sine=1.0), shares=shares(multi=0.0)))
    assert nothing[-1] == "Nothing in it depends on several weights together."
    assert conclude(found(maps=maps(sine=0.97), shares=shares(multi=0.02), few=True))[-1].endswith("a lower bound.")


def test_a_negligible_perturbation_comes_first():
    sentences = conclude(replace(fake_findings(), norm_ratio=0.0003, maps=maps(sine=0.99)))
    assert sentences[0] == "The perturbation is too small to matter: 0.03 % of Adam's step (median over the run)."
    assert "too small" not in conclude(replace(fake_findings(), norm_ratio=None))[0]


def test_a_table_is_not_called_random():
    sentences = conclude(found(shares=shares(rest=0.99), maps=maps(frozen_at_step_0=1.0)))
    assert sentences[0] == "The perturbation is a table of numbers that is frozen at step 0, to 100 % of its power."


def test_noise_and_nothing():
    assert conclude(found(shares=shares(rest=0.8), maps=maps()))[0] == (
        "The perturbation is mostly random: 80.00 % of its power is no function of the weights."
    )
    assert conclude(found(shares=shares(power=0.0)))[0] == "The perturbation is 0: it does nothing."
