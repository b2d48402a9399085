"""What the pages in docs/ say can be run. Blocks marked `no-run (reason)` are not.

The Python blocks of a page run in order and share their names; commands are parsed, but not run.
"""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_qsgd.cli import main
from lightning_qsgd.comparison import read_spec
from lightning_qsgd.comparison.arms import Arms
from lightning_qsgd.quantum import QuantumNetwork, superposition_circuit

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page):
    """(language, words after it, text) for each fenced block."""
    return re.findall(r"^```(\w*)([^\n]*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def check_command(line, capsys):
    """Refuse a command that this checkout does not have, or an option that it does not take."""
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), line
    elif words[:3] == ["python", "-m", "lightning_qsgd"]:
        if words[3] == "doctor":
            assert words[4:] == [], line
            return
        with pytest.raises(SystemExit) as stopped:
            main([*words[3:], "--print_config"])
        assert stopped.value.code == 0, f"{line}\n{capsys.readouterr().err}"
    else:
        python, script, *arguments = words
        assert python == "python", line
        assert re.fullmatch(r"scripts/\w+\.py", script), line
        text = (ROOT / script).read_text()
        for option in (argument.split("=")[0] for argument in arguments if argument.startswith("--")):
            assert f'"{option}"' in text, f"{line}: {script} has no {option}"


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.stem)
def test_every_block_that_does_not_run_says_why(page):
    for language, words, _ in blocks(page):
        assert not words or re.fullmatch(r" no-run \(.{10,}\)", words), f"{language}{words}"


@each_page
@pytest.mark.filterwarnings("ignore:The perturbation is nearly constant")
def test_the_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    for language, words, text in blocks(page):
        if language == "python" and not words:
            exec(compile(text, page.name, "exec"), names)


def test_the_noise_of_the_example_sampler_is_fresh_and_reproducible():
    (text,) = (text for _, _, text in blocks(ROOT / "docs" / "extend.md") if "class Counting" in text)
    exec(compile(text, "extend.md", "exec"), names := {"__name__": "extend"})

    def frequencies(seed=0, step=None, calls=2):
        network = QuantumNetwork(superposition_circuit(2, 1), names["Counting"](seed=seed))
        weights = np.zeros(network.ansatz.num_weights)
        return [network.probabilities(np.full((3, 2), 0.4), weights, step=step) for _ in range(calls)]

    first, second = frequencies()
    assert len({row.tobytes() for row in (*first, *second)}) == 6
    again, _ = frequencies()
    assert np.array_equal(first, again)
    other, _ = frequencies(seed=1)
    assert not np.array_equal(first, other)
    at_5, repeated = frequencies(step=5)
    assert np.array_equal(at_5, repeated)  # a resumed run repeats its step
    (at_6,) = frequencies(step=6, calls=1)
    assert not np.array_equal(at_5, at_6)


@each_page
def test_the_comparisons_have_configurations(page, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("import torch\n\n\nclass MyOptimizer(torch.optim.SGD):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # of another test
    texts = [text for language, _, text in blocks(page) if language == "yaml" and "arms:" in text]
    for text in texts:
        (tmp_path / "comparison.yaml").write_text(text)
        spec = [tmp_path / "comparison.yaml"]
        if "name:" not in text:  # a part, over the whole above it
            (tmp_path / "whole.yaml").write_text(texts[0])
            (tmp_path / "comparison.yaml").write_text(text + "gatekeeper: null\nclaims: {}\n")
            spec = [tmp_path / "whole.yaml", *spec]
        comparison = read_spec(spec)
        arms = Arms(comparison)
        assert {arms.plan(name, 1, "evaluation", {}).seed for name in comparison.all_arms()} == {1}


@each_page
def test_the_commands_exist(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for language, words, text in blocks(page):
        if language == "bash" and not words:
            for line in text.replace("\\\n", " ").splitlines():
                if line.split("#")[0].strip():
                    check_command(line, capsys)


@pytest.mark.parametrize(
    "line",
    [
        "make nonsense",
        "python scripts/nonsense.py",
        "python scripts/benchmark.py --nonsense",
        "python -m lightning_qsgd fit --config configs/seqcls.yaml --nonsense 1",
        "python -m lightning_qsgd nonsense",
        "git push",
    ],
)
def test_a_command_that_does_not_exist_is_found(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, OSError)):
        check_command(line, capsys)


@each_page
def test_pictures_and_files_that_a_page_links_exist(page):
    """Links between pages are the site builder's to check."""
    for alt, target in re.findall(r"(!?\[[^\]]*\])\(([^)#]+)\)", page.read_text()):
        if "://" not in target and not target.endswith(".md"):
            assert (page.parent / target).is_file(), f"{page.name} links {target}"
            assert not alt.startswith("!") or len(alt) > 30, f"{target} has no description"
