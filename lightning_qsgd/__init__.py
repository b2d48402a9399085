"""A PyTorch Lightning research template with quantum layers, centred on Superpositional Gradient Descent.

Paper: arXiv 2511.01918. ``fit``, ``build`` and ``Experiment`` are imported at their first use, so that this module
stays light; all others are in the parts: ``lightning_qsgd.quantum``, ``.optim``, ``.models``, ``.datamodules``,
``.tasks``, ``.callbacks``.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_qsgd.experiment import Experiment as Experiment
    from lightning_qsgd.experiment import build as build
    from lightning_qsgd.experiment import fit as fit

__version__ = version("lightning-qsgd")
# Classes that configurations name must not be here: the parser would write them by this shorter path.
_LAZY = ("Experiment", "build", "fit")


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'lightning_qsgd' has no attribute {name!r}")
    from lightning_qsgd import experiment

    return getattr(experiment, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
