import errno
import os
import resource
import signal
import stat
from pathlib import Path

import pytest
import torch

from lightning_qsgd.files import atomic_write, find_config
from lightning_qsgd.run_folder import AtomicCheckpointIO


def test_the_file_appears_complete(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as file:
        file.write("é")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "é"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with atomic_write(path) as file:
            file.write("half")
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
    if isinstance(error, OSError):
        assert "a.txt: No space left on device; an earlier file there is intact" in str(caught.value)


def test_checkpoints_are_replaced_and_never_run_code(tmp_path):
    io, path = AtomicCheckpointIO(), tmp_path / "x.ckpt"
    io.save_checkpoint({"x": torch.ones(2)}, path)
    io.save_checkpoint({"x": torch.zeros(2)}, path)
    assert io.load_checkpoint(path)["x"].tolist() == [0, 0]

    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/executed",)

    torch.save({"x": Hostile()}, path)
    with pytest.raises(Exception, match="Weights only load failed"):
        io.load_checkpoint(path, weights_only=False)
    assert not (tmp_path / "executed").exists()


def test_errors_of_other_files_are_not_blamed_on_this_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), atomic_write(tmp_path / "a.txt"):
        (tmp_path / "nowhere").read_text()
    with pytest.raises(OSError, match=r"Could not write .*: device said no"), atomic_write(tmp_path / "a.txt"):
        raise OSError("device said no")


def test_a_full_disk_is_one_clear_error(tmp_path):
    io, path = AtomicCheckpointIO(), tmp_path / "x.ckpt"
    io.save_checkpoint({"x": 1}, path)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, old[1]))
    try:
        with pytest.raises(OSError, match=r"Could not write .*x.ckpt: .*an earlier file there is intact"):
            io.save_checkpoint({"x": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert io.load_checkpoint(path) == {"x": 1}
    assert os.listdir(tmp_path) == ["x.ckpt"]


def test_a_failed_save_keeps_the_checkpoint(tmp_path):
    io, path = AtomicCheckpointIO(), tmp_path / "x.ckpt"
    io.save_checkpoint({"x": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        io.save_checkpoint({"x": lambda: None}, path)
    assert io.load_checkpoint(path) == {"x": 1}
    assert os.listdir(tmp_path) == ["x.ckpt"]


def test_a_configuration_is_found_by_path_or_short_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = find_config("configs/seqcls.yaml")
    assert Path(shipped).is_file()
    assert {find_config(name) for name in ("seqcls", Path("configs/seqcls"))} == {shipped}
    assert find_config("overlay/adamw").endswith("configs/overlay/adamw.yaml")
    assert find_config("seqcls.yaml") == shipped
    for inline in ("a: 1", "{}", "a:\n  b: 1\n" * 99):
        assert find_config(inline) == inline
    for own in ("configs/seqcls.yaml", "configs/mine.yaml", "plain"):
        Path(own).parent.mkdir(exist_ok=True)
        Path(own).write_text("trainer:\n")
    assert find_config("seqcls") == find_config("configs/seqcls.yaml") == "configs/seqcls.yaml"  # the own one first
    assert find_config("mine") == "configs/mine.yaml"
    assert find_config("plain") == "plain"


def test_an_unknown_configuration_is_told_what_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    neither = r": there is neither this file nor configs/seqlcs.yaml. Shipped: seqcls, series$"
    for name in ("seqlcs", "seqlcs.yaml"):
        with pytest.raises(FileNotFoundError, match=f"'{name}'{neither}"):
            find_config(name)
    for name in ("configs/seqlcs.yaml", "/nowhere/seqlcs.yaml", "../seqlcs.yaml"):
        with pytest.raises(FileNotFoundError, match=f"'{name}': there is no such file. Shipped: seqcls"):
            find_config(name)
    with pytest.raises(FileNotFoundError, match=r"Shipped: compare/seqcls, compare/"):
        find_config("compare/seqlcs", comparison=True)
    with pytest.raises(FileNotFoundError, match=r"Shipped: .*gsm8k, .*textcls"):
        find_config("zzz")
