"""Which parts a report has."""

from lightning_qsgd.comparison.analysis import analyse
from lightning_qsgd.comparison.sections import task, together
from tests.comparison.common import fake_results


def keys(results):
    return [section.key for section in task(analyse(results), "k").sections]


def test_parts_come_in_order():
    live = {"b": {"norm_ratio": 0.5}}
    options = {"claims": {"b": ["a"]}, "dose": {"s": ["a", "b"]}, "live": live, "diverged": [("b", 1)]}
    wanted = (
        "contrasts claims curves differences arms targets dose cost tuning live settings "
        "unfinished pairing methods provenance"
    )
    assert keys(fake_results({"a": 0.0, "b": 0.0}, ["b - a"], **options)) == wanted.split()


def test_what_is_empty_is_left_out():
    assert keys(fake_results({"a": 0.0})) == [
        "curves",
        "arms",
        "targets",
        "cost",
        "tuning",
        "settings",
        "pairing",
        "methods",
        "provenance",
    ]


def test_a_weaker_level_than_declared_is_a_warning():
    results = fake_results({"a": 0.0, "b": 0.0}, ["b - a"])
    assert all(not section.warnings for section in task(analyse(results), "k").sections)
    results.of("b")[1].hashes["seeds"] = ["other"]
    warnings = [warning for section in task(analyse(results), "k").sections for warning in section.warnings]
    assert warnings == ["b - a: declared full, found data (other seeds of the steps from epoch 1 on)."]


def test_tasks_without_common_arms_say_so():
    one, two = (analyse(fake_results({arm: 0.0}, seeds=1, data=arm)) for arm in ("a", "z"))
    assert "Nothing can be said across 2 tasks" in together([one, two]).blocks[0]


def test_the_same_data_make_no_two_tasks():
    one, two = (analyse(fake_results({"a": 0.0, "b": 0.0}, seeds=1, name=name)) for name in ("one", "two"))
    (said,) = together([one, two]).blocks
    assert said.startswith("These 2 comparisons are not taken together as tasks: their runs share validation data")
