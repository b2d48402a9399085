"""RunPage: how a run was started, as a page of text in TensorBoard."""

import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback

from lightning_qsgd.callbacks.parts import tensorboard_writers
from lightning_qsgd.scrubbing import scrubbed

PACKAGES = ("lightning-qsgd", "torch", "lightning", "qiskit", "qiskit-aer", "qiskit-machine-learning")


class RunPage(SaveConfigCallback):
    """Lightning's callback that saves config.yaml; it also writes the text ``run`` into TensorBoard.

    The text holds the command, the versions and the configuration, without secrets (scrubbing.py).

    Args:
        arguments: of the command line. Default: none.

    All further arguments are Lightning's.
    """

    def __init__(self, *args: Any, arguments: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.arguments = arguments

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the page; a resumed run has one for each start."""
        if not trainer.is_global_zero:
            return
        for writer in tensorboard_writers(trainer.loggers):
            config = self.parser.dump(self.config, skip_unset=False)
            writer.add_text("run", run_page(self.arguments, config), trainer.global_step)


def run_page(arguments: Sequence[str], config: str) -> str:
    """Markdown.

    Args:
        arguments: of the command line, without the program.
        config: YAML.
    """
    rows = [f"| {name} | {_version(name)} |" for name in PACKAGES] + [f"| Python | {platform.python_version()} |"]
    words = ((" \\\n    " if word.startswith("--") else " ") + shlex.quote(word) for word in arguments)
    command = _block("lightning-qsgd" + "".join(words))
    table = "\n".join(["| package | version |", "|---|---|", *rows])
    return scrubbed(f"### Command\n\n{command}\n\n### Versions\n\n{table}\n\n### Configuration\n\n{_block(config)}")


def _block(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a checkout on the path
        return "not installed"
