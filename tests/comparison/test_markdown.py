"""The summary is short, and nothing in it is markup by accident."""

from pathlib import Path

from lightning_qsgd.comparison.analysis import analyse
from lightning_qsgd.comparison.markdown import escape, render
from lightning_qsgd.comparison.sections import Section, Task, task, together
from tests.comparison.common import fake_results


def rendered(*results):
    analyses = [analyse(result) for result in results]
    combined = together(analyses) if len(analyses) > 1 else None
    return render("t", [task(a, str(i)) for i, a in enumerate(analyses)], combined)


def test_figures_lie_beside_it_and_are_named():
    text, files = rendered(fake_results({"a": 0.0, "b": 0.03}, ["b - a"]))
    assert set(files) == {
        Path(f"figures/{name}.svg") for name in ("contrasts", "curves", "target_1", "target_2", "cost")
    }
    assert all(f"]({path.as_posix()})" in text for path in files)
    assert "| b - a | better | no | 10 | +3.00 |" in text


def test_rows_have_as_many_cells_as_their_header():
    text, _ = rendered(fake_results({"a|b": 0.0, "c": 0.0}, ["c - a|b"], failed=[("c", 1)]))
    rows = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    blocks = text.replace("\\|", "").split("\n\n")
    for block in blocks:
        lines = block.splitlines()
        assert len({line.count("|") for line in lines if line.startswith("|")}) <= 1
    assert rows


def test_several_tasks_have_figures_of_their_own():
    text, files = rendered(
        *(fake_results({"a": 0.0, "b": 0.0}, ["b - a"], name=name, data=name) for name in ("one", "two"))
    )
    assert {Path("figures/0_contrasts.svg"), Path("figures/1_contrasts.svg"), Path("figures/profile.svg")} <= set(files)
    assert text.index("## Across tasks") > text.index("## two")


def test_markup_is_escaped():
    assert escape("a_b|<c>\n*d*") == r"a\_b\|\<c\> \*d\*"


def test_a_summary_may_keep_all_sections():
    part = Task("1", "t", ["It is so."], False, [Section("own", "My own", ["A block."])], subject="Audited: this.")
    assert "My own" not in render("t", [part])[0]
    assert render("t", [part], kept=None)[0] == "# t\n\nIt is so.\n\nAudited: this.\n\n## My own\n\nA block.\n"
