"""A PyTorch Lightning research template with quantum layers, centred on Superpositional Gradient Descent.

Paper: arXiv 2511.01918. Import from the parts: ``lightning_qsgd.quantum``, ``.optim``, ``.models``, ``.datamodules``,
``.tasks``, ``.callbacks``; this module stays light.
"""

from importlib.metadata import version

__version__ = version("lightning-qsgd")
