import sys
from pathlib import Path

import pytest

from lightning_qsgd.cli import main
from lightning_qsgd.comparison import read_spec
from lightning_qsgd.init import KINDS, make_project
from lightning_qsgd.twin_names import LAYER_TWINS
from tests.common import fails

ROOT = Path(__file__).parents[1]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def test_a_new_project_trains(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "work" / "mine"
    main(["init", str(folder)])
    assert f"cd {folder} && python -m lightning_qsgd fit --config configs/my_data.yaml" in capsys.readouterr().out
    for kind in ("*.yaml", "overlay/*.yaml", "compare/*.yaml"):
        shipped = {path.name for path in (ROOT / "configs").glob(kind)}
        assert shipped <= {path.name for path in (folder / "configs").glob(kind)}
    assert {path.name for path in folder.iterdir()} == {"README.md", "my_data.py", "configs"}
    written = [(folder / name).read_text() for name in ("README.md", "my_data.py", "configs/my_data.yaml")]
    commands = [line for text in written for line in text.splitlines() if "lightning_qsgd fit" in line]
    assert len(commands) == 4
    assert all("fit --config configs/my_data.yaml" in line for line in commands)
    assert len((folder / "README.md").read_text().splitlines()) <= 10
    short = ["--trainer.max_epochs=1", "--data.train_size=64", "--trainer.accelerator=cpu"]
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my_data", raising=False)
    main(["fit", "--config", "configs/my_data.yaml", *short])
    assert (folder / "logs" / "my_data" / "version_0" / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize("kind", KINDS)
def test_a_project_for_a_kind_of_data_holds_what_it_needs_and_trains(tmp_path, capsys, monkeypatch, kind):
    """The commands of its README run; its other overlays are parsed."""
    folder = tmp_path / "mine"
    main(["init", str(folder), "--kind", kind])
    made = capsys.readouterr().out
    config = KINDS[kind].config
    assert f"lightning_qsgd fit --config configs/{config}.yaml" in made
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    overlays = {f"configs/overlay/{name}.yaml" for name in KINDS[kind].overlays}
    extra = {"series": {"scripts/fetch_data.py"}, "text": {"data/train.csv"}}.get(kind, set())
    compared = set() if kind == "text" else {f"configs/compare/{kind}.yaml"}
    assert files == {"README.md", f"configs/{config}.yaml"} | overlays | extra | compared
    monkeypatch.chdir(folder)
    lines = (folder / "README.md").read_text().splitlines()
    commands = [line.split()[3:] for line in lines if line.startswith("    python -m lightning_qsgd")]
    names = ["fit", "fit", "test", *(["compare"] if compared else []), "--help"]
    assert [command[0] for command in commands] == names
    if kind == "series":
        assert "    python scripts/fetch_data.py sunspots" in lines
        (folder / "data").mkdir()
        table = [f"{1749 + i // 12}-{i % 12 + 1:02},{i * i % 37}" for i in range(240)]
        (folder / "data" / "sunspots.csv").write_text("\n".join(["month,sunspots", *table]))
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu", *QUIET]
    for command in commands[:2]:
        main([*command, *short])
    assert (folder / "logs" / config / "version_0" / "checkpoints" / "best.ckpt").is_file()
    if compared:
        assert read_spec([commands[3][2]]).arms["circuit"].twins == list(LAYER_TWINS)
    with pytest.raises(SystemExit) as ended:
        main([*commands[0], *(f"--config=overlay/{name}" for name in KINDS[kind].overlays[1:]), "--print_config"])
    assert ended.value.code == 0


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_nothing_is_written_over(tmp_path, capsys, kind):
    target = tmp_path / "mine"
    {"folder": target.mkdir, "file": target.touch, "dangling link": lambda: target.symlink_to("nowhere")}[kind]()
    assert "it exists, and is not overwritten: name a new one" in fails(capsys, "init", str(target))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert not target.is_dir() or not list(target.iterdir())


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"Could not write .*mine: No space left on device"):
        make_project(tmp_path / "mine")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_needed(capsys):
    assert "folder" in fails(capsys, "init")
