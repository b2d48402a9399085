"""The README, and the pages whose commands run as they stand. Blocks marked `no-run (reason)` do not."""

import importlib
import re
import shlex

import pytest

from lightning_qsgd.cli import main
from tests.test_docs import ROOT, blocks

README = (ROOT / "README.md").read_text()
PAGES = ("README.md", "docs/runs.md", "docs/backends.md", "docs/quantum_attention.md")
SMALL = ["--data.train_size=64", "--data.val_size=64", "--data.test_size=64", "--trainer.enable_progress_bar=false"]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    texts = [text for language, words, text in blocks(ROOT / page) if language == "bash" and not words]
    commands = [line.split("#")[0] for text in texts for line in text.splitlines() if line.strip()]
    assert len(commands) >= 4
    if (
        page == "docs/quantum_attention.md"
    ):  # between its commands the page trains for longer; `best` needs a newest run
        commands = [commands[0], *(command for command in commands if " test " in command)]
    for command in commands:
        python, flag, package, name, *arguments = shlex.split(command)
        assert (python, flag, package) == ("python", "-m", "lightning_qsgd"), command
        epochs = 2 if "last" in arguments else 1  # a resumed run has some left
        short = [f"--trainer.max_epochs={epochs}"] if name == "fit" else []
        small = SMALL if name in ("fit", "test", "predict", "calibrate") else []
        if name != "--help":  # of the console script: tests/test_manual.py
            main([name, *arguments, *short, *small])
    found = {"README.md": "logs/report/report.html", "docs/runs.md": "logs/seqcls/version_0/predictions.csv"}
    assert (tmp_path / found.get(page, "logs")).exists()


def test_it_fits_on_a_screen():
    assert len(README.splitlines()) <= 75


def test_it_names_the_versions_of_python():
    metadata = (ROOT / "pyproject.toml").read_text()
    versions = re.findall(r"Python :: (3\.\d+)", metadata)
    assert f"Python {', '.join(versions[:-1])} or {versions[-1]}" in README
    assert f'requires-python = ">={versions[0]}"' in metadata


def test_the_layout_names_every_part():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    picture = page[page.index("## Layout") :].split("```")[1]
    for path in (ROOT / "lightning_qsgd").iterdir():
        assert not path.is_dir() or path.name == "__pycache__" or f"{path.name}/" in picture, path.name


def test_the_picture_of_the_package_names_every_file():
    picture = (ROOT / "docs" / "develop.md").read_text().split("```")[1]
    for path in sorted((ROOT / "lightning_qsgd").rglob("*.py")):
        if path.name not in ("__init__.py", "__main__.py"):
            assert re.search(rf"\b{path.stem}\b", picture), path


def test_runs_names_every_configuration():
    page = (ROOT / "docs" / "runs.md").read_text()
    for path in (ROOT / "configs").rglob("*.yaml"):
        named = f"{path.stem}.yaml" if path.parent.name == "configs" else path.stem
        assert path.parent.name == "compare" or f"`{named}`" in page, path


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("text", [README, (ROOT / "CONTRIBUTING.md").read_text()], ids=["README", "CONTRIBUTING"])
def test_links_and_files_lead_somewhere(text):
    for path in re.findall(r"`((?:lightning_qsgd|tests|docs|configs|scripts|examples)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path
    for page, anchor in re.findall(r"\]\(([\w./]+)(?:#([\w-]+))?\)", text):
        assert (ROOT / page).exists(), page
        if anchor:
            titles = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, anchor


@pytest.mark.parametrize("column", [2, 3])
def test_the_table_of_results_says_what_the_runs_gave(column, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    overview = importlib.import_module("plot_overview")
    found = overview.differences(ROOT / "docs" / "results" / ("seqcls", "seqcls_cosine")[column - 2])
    rows = (ROOT / "docs" / "results.md").read_text().split("| | paper |")[1].split("\n\n")[0].splitlines()
    shown = [row.split("|")[column + 1].strip() for row in rows if re.search(r"\([+-]\d", row)]
    shown = [float(re.search(r"\(([+-][\d.]+)\)", cell)[1]) for cell in shown if "(" in cell and "diverged" not in cell]
    if column == 3:
        shown.pop(1)  # outside of alpha: not in the picture
    assert shown == [pytest.approx(100 * found[arm].mean, abs=0.0051) for arm in overview.ARMS]


def test_the_picture_is_drawn_from_the_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    overview = importlib.import_module("plot_overview")
    overview.main(["--output", str(tmp_path)])
    assert (tmp_path / "overview.png").stat().st_size > 10_000
    alt = re.search(r"!\[(.*)\]\(docs/images/overview.png\)", README)[1]
    found = {arm: round(100 * difference.mean, 2) for arm, difference in overview.differences().items()}
    assert re.findall(r"\d\.\d+", alt) == [f"{found[arm]:.2f}" for arm in ("zero-in-0.5", "zero", "zero/frozen")]
