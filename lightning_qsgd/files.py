"""Files that appear complete or not at all. Level 0: imports nothing of this package."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


@contextmanager
def atomic_write(path: str | Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Open a file beside ``path``; on success flush it to disk and move it there, on failure remove it.

    Args:
        path: the target; its folder is made if missing.
        mode: "w" (text, UTF-8) or "wb".

    Raises:
        OSError: if the file cannot be written, for example on a full disk; ``path`` is then as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoding, newline = ("utf-8", "") if mode == "w" else (None, None)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files private
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        if error.filename not in (None, temporary):  # of another file, in the caller's block
            raise
        reason = f"Could not write {path}: {error.strerror or error}; an earlier file there is intact"
        raise OSError(error.errno, reason) from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are complete or absent, and load with weights_only=True whatever the caller says."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write beside ``path``, flush to disk, then replace it.

        Raises:
            OSError: if it cannot be written; an earlier checkpoint at ``path`` is intact.
        """
        with atomic_write(path, "wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # what torch makes of a full disk
                raise OSError(errno.EIO, f"{str(error).splitlines()[0]} (is the disk full?)") from error

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
        """Load tensors and plain values; code in the file does not run."""
        return super().load_checkpoint(path, map_location, weights_only=True)
