import numpy as np
import pytest
import torch

from lightning_qsgd.quantum import CircuitSimulator, aligned_rotations, modulation_matrix, superposition_circuit

# (num_qubits, depth): the known solution, depth 1, and sizes solved by least squares
SIZES = [(4, 2), (4, 1), (1, 2), (2, 2), (3, 2), (5, 2), (2, 3)]


@pytest.mark.parametrize(("num_qubits", "depth"), SIZES)
@pytest.mark.parametrize("entanglement", ["linear", "none"])
def test_aligned_rotations_give_zero_offset_and_unit_slope(num_qubits, depth, entanglement):
    simulate = CircuitSimulator(superposition_circuit(num_qubits, depth, entanglement))
    weights = torch.tensor(aligned_rotations(num_qubits, depth, entanglement), dtype=torch.float64)
    matrix = modulation_matrix(num_qubits, decode_chain=entanglement == "linear")
    zero = torch.zeros(1, num_qubits, dtype=torch.float64)
    s = simulate(zero, weights) @ matrix
    slope = torch.func.jacrev(lambda a: (simulate(a, weights) @ matrix)[0])(zero)[:, 0]
    assert s.abs().max() < 1e-6
    torch.testing.assert_close(slope, torch.eye(num_qubits, dtype=torch.float64), atol=1e-6, rtol=0)


def test_the_known_solution_follows_the_sine():
    simulate = CircuitSimulator(superposition_circuit())
    weights = torch.tensor(aligned_rotations(4, 2, "linear"), dtype=torch.float64)
    angles = torch.randn(4000, 4, dtype=torch.float64) * 0.05 * torch.pi  # weights of 0.05
    s = simulate(angles, weights) @ modulation_matrix(4, decode_chain=True)
    for k in range(4):
        assert np.corrcoef(s[:, k], angles[:, k].sin())[0, 1] > 0.98
    wide = simulate(angles * 20, weights) @ modulation_matrix(4, decode_chain=True)
    assert 0.9 < wide.abs().max() <= 1


def test_modulation_matrix_reads_and_decodes_bits():
    plain, decoded = modulation_matrix(3, False), modulation_matrix(3, True)
    assert plain[0b110].tolist() == [-1, 1, 1]  # qubit 0 is the lowest bit
    assert decoded[0b110].tolist() == [-1, 1, -1]  # x2 = y2 xor y1 = 0


def test_sizes_without_solution_are_refused(monkeypatch):
    monkeypatch.setattr("lightning_qsgd.quantum.alignment.TOLERANCE", -1.0)
    monkeypatch.setattr("lightning_qsgd.quantum.alignment.STARTS", 2)
    with pytest.raises(ValueError, match=r"No aligned rotations found for 1 qubits, depth 4.*center='zero'"):
        aligned_rotations(1, 4, "linear")
