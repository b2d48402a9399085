"""Samplers whose circuits have no Fourier series."""

import numpy as np
from qiskit.primitives import BaseSamplerV2

from lightning_qsgd.quantum import AerSampler, ExactSampler


class _Changed(BaseSamplerV2):
    """Another sampler, asked for other angles: :meth:`changed` maps (rows, parameters) to those that run."""

    def __init__(self, shots: int | None = 1024):
        self.shots, self.done = shots, 0
        self.inner = ExactSampler() if shots is None else AerSampler(shots=shots)

    def changed(self, values):
        raise NotImplementedError

    def run(self, pubs, *, shots=None):
        (circuit, values), *_ = pubs
        values = self.changed(np.asarray(values))
        self.done += len(values)
        return self.inner.run([(circuit, values)], shots=shots)


class OverRotating(_Changed):
    """1 % more of every angle: an error that grows with the angle."""

    def __init__(self, shots: int | None = 1024, factor: float = 1.01):
        super().__init__(shots)
        self.factor = factor

    def changed(self, values):
        return self.factor * values


class Drifting(_Changed):
    """More of each angle in every circuit: ``rate`` radians in 1,000."""

    def __init__(self, shots: int | None = 1024, rate: float = 0.4):
        super().__init__(shots)
        self.rate = rate

    def changed(self, values):
        return values + self.rate * (self.done + np.arange(len(values)))[:, None] / 1000


class Branching(_Changed):
    """Exact, but each circuit takes one of two branches, as a simulator does that samples a reset once."""

    def __init__(self):
        super().__init__(shots=None)
        self.rng = np.random.default_rng(0)

    def changed(self, values):
        return values * self.rng.integers(0, 2, (len(values), 1))
