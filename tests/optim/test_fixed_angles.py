"""Angles that stay fixed: the paper's rotations by name, those of an own circuit by its class."""

import numpy as np
import pytest

from lightning_qsgd.optim import CircuitPerturbation
from tests.optim.test_own_circuit import Forgotten, Ring, Turned


def test_rotations_by_name_and_as_a_list():
    given = {name: CircuitPerturbation(rotations=name).weights for name in ("aligned", "zero", "random")}
    assert {angles.shape for angles in given.values()} == {(12,)}
    assert not given["zero"].any()
    assert np.abs(given["random"]).max() <= np.pi
    assert (CircuitPerturbation(rotations="random", rotation_seed=1).weights != given["random"]).all()
    assert CircuitPerturbation(rotations=list(range(12))).weights.tolist() == list(range(12))


def test_those_of_an_own_circuit():
    assert Ring(num_qubits=3).weights.shape == (0,)
    assert Turned(num_qubits=3).weights.tolist() == [0.7]


@pytest.mark.parametrize("rotations", ["random", [0.1] * 9])
def test_rotations_of_the_papers_circuit_are_refused(rotations):
    with pytest.raises(ValueError, match=r"Invalid rotations: .*; it must be left out: Ring has a circuit of its own"):
        Ring(num_qubits=3, rotations=rotations)


def test_forgotten_weights_are_asked_for():
    with pytest.raises(ValueError, match=r"weights: none; the circuit of Forgotten has 1: set weights = np\.array"):
        Forgotten(num_qubits=3)
