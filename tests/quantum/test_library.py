import inspect
import io
import re

import numpy as np
import pytest
import torch
from qiskit import QuantumCircuit, qasm3, qpy
from qiskit.circuit import ParameterVector
from qiskit.circuit.library import efficient_su2, real_amplitudes, zz_feature_map
from qiskit.quantum_info import Statevector, random_unitary

from lightning_qsgd.quantum import (
    CircuitSimulator,
    QuantumLayer,
    QuantumNetwork,
    from_qasm,
    from_qpy,
    named_circuit,
)
from lightning_qsgd.quantum.library import CIRCUITS

#: Inputs and weights of 4 qubits and two layers.
SIZES = {
    "superposition": (4, 12), "layered": (4, 12), "score": (1, 12), "ring": (4, 24), "brick": (4, 16),
    "all_to_all": (4, 16), "strongly_entangling": (4, 24), "su4_brick": (4, 45), "su4_staircase": (4, 90),
    "tree_tensor": (4, 7), "amplitude": (16, 0), "real_amplitudes": (4, 12), "efficient_su2": (4, 24), "iqp": (4, 0),
    "zz_feature_map": (4, 0), "pauli_feature_map": (4, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CIRCUITS)
def test_each_circuit_by_name_has_its_sizes_and_is_qiskits_state_on_every_engine(name):
    ansatz = named_circuit(name)
    assert (ansatz.num_qubits, ansatz.num_inputs, ansatz.num_weights) == (4, *SIZES[name])
    rng = np.random.default_rng(0)
    inputs, weights = rng.uniform(-3, 3, (3, ansatz.num_inputs)), rng.uniform(-3, 3, ansatz.num_weights)
    named, angles = [*ansatz.inputs, *ansatz.weights], inputs
    if ansatz.encoding is not None:
        angles = ansatz.encoding.function(torch.from_numpy(inputs)).numpy()
    bound = [ansatz.circuit.assign_parameters(dict(zip(named, [*row, *weights], strict=True))) for row in angles]
    expected = np.stack([Statevector(circuit).probabilities() for circuit in bound])
    for engine in ("native", "torch"):
        found = CircuitSimulator(ansatz, engine=engine)(torch.from_numpy(inputs), torch.from_numpy(weights))
        np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(QuantumNetwork(ansatz).probabilities(inputs, weights), expected, atol=1e-12)
    assert np.ptp(expected, axis=0).max() > 1e-3, "inputs do something"


@pytest.mark.parametrize("name", CIRCUITS)
def test_every_weight_does_something(name):
    ansatz = named_circuit(name, num_qubits=3) if name != "tree_tensor" else named_circuit(name)
    if not ansatz.num_weights:
        return
    inputs = torch.linspace(-2, 2, 8 * ansatz.num_inputs).double().view(8, -1)
    weights = torch.linspace(-1, 2, ansatz.num_weights).double()
    jacobian = torch.func.jacrev(lambda w: CircuitSimulator(ansatz)(inputs, w))(weights)
    idle = (jacobian.abs().amax((0, 1)) < 1e-9).sum()
    # The last rotations about z, before nothing but measurements, change phases alone.
    trailing = {"ring": 3, "brick": 3, "all_to_all": 3, "strongly_entangling": 3, "efficient_su2": 3}
    assert idle <= trailing.get(name, 6 if name.startswith("su4") else 0)


def test_options_reach_the_circuits():
    assert named_circuit("ring", num_qubits=3, depth=4, gates=["ry"]).num_weights == 12
    again = named_circuit("ring", num_qubits=2, depth=3, reuploading=True).circuit
    assert again.count_ops()["ry"] == 2 * 3 + 2 * 3  # encodings and weights
    assert named_circuit("brick", encoding="none").num_inputs == 0
    assert "rx" in named_circuit("tree_tensor", encoding_gate="rx").circuit.count_ops()
    for encoding in ("iqp", "zz", "pauli"):
        ansatz = named_circuit("real_amplitudes", num_qubits=3, encoding=encoding)
        assert (ansatz.num_inputs, ansatz.num_weights) == (3, 9)
    for function in CIRCUITS.values():
        assert {"num_qubits"} <= inspect.signature(function).parameters.keys()


def test_qiskits_circuits_are_qiskits():
    values = np.random.default_rng(1).uniform(-3, 3, 16)
    for name, made in (("real_amplitudes", real_amplitudes(4, reps=3)), ("efficient_su2", efficient_su2(4, reps=1))):
        depth = 3 if name == "real_amplitudes" else 1
        ansatz = named_circuit(name, depth=depth, encoding="none")
        expected = Statevector(made.assign_parameters(values[: made.num_parameters])).probabilities()
        layer = QuantumLayer(ansatz, initial=values[: ansatz.num_weights]).double()
        np.testing.assert_allclose(layer()[0].detach(), expected, atol=1e-6)
    feature_map = zz_feature_map(3, reps=2)
    expected = Statevector(feature_map.assign_parameters(values[:3])).probabilities()
    found = CircuitSimulator(named_circuit("zz_feature_map", num_qubits=3))(torch.from_numpy(values[None, :3]))
    np.testing.assert_allclose(found[0], expected, atol=1e-12)


def test_the_iqp_encoding_is_diagonal_between_hadamards():
    x = np.array([0.4, -1.1, 0.7])
    bound = named_circuit("iqp", num_qubits=3, depth=1).circuit.assign_parameters(x)
    z = 1 - 2 * ((np.arange(8)[:, None] >> np.arange(3)) & 1)
    phase = z @ x / 2 + sum(x[a] * x[b] * z[:, a] * z[:, b] / 2 for a, b in ((0, 1), (0, 2), (1, 2)))
    np.testing.assert_allclose(Statevector(bound).data, np.exp(-1j * phase) / np.sqrt(8), atol=1e-12)


def test_an_su4_block_reaches_any_two_qubit_state():
    target = torch.from_numpy(np.abs(random_unitary(4, seed=3).data[:, 0]) ** 2)
    torch.manual_seed(2)
    layer = QuantumLayer("su4_brick", circuit={"num_qubits": 2, "depth": 1, "encoding": "none"}).double()
    optimizer = torch.optim.LBFGS([layer.weights], max_iter=200)

    def loss():
        optimizer.zero_grad()
        value = (layer()[0] - target).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    torch.testing.assert_close(layer()[0], target, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rign", {}, "Invalid circuit: 'rign'; close: ring; known: superposition, "),
        ("ring", {"layers": 3}, "Invalid option of circuit 'ring': 'layers'; it has num_qubits, depth, gates"),
        ("ring", {"num_qubits": 0}, "Invalid num_qubits: 0; it must be at least 1"),
        ("su4_brick", {"num_qubits": 1}, "Invalid num_qubits: 1; it must be at least 2"),
        ("ring", {"depth": 0}, "Invalid depth: 0; it must be at least 1"),
        (
            "ring",
            {"encoding": "qubits"},
            "Invalid encoding: 'qubits'; it must be one of angle, iqp, zz, pauli, amp",
        ),
        ("ring", {"encoding_gate": "h"}, "Invalid encoding_gate: 'h'; it must be one of rx, ry, rz"),
        ("amplitude", {"num_qubits": 11}, "Invalid num_qubits: 11; amplitudes need 2**11 - 1 rotations"),
        ("brick", {"gates": "ry"}, "Invalid gates: 'ry'; it must be a list of rx, ry, rz"),
    ],
)
def test_mistakes(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        named_circuit(name, **options)


@pytest.mark.parametrize("name", ["ring", "brick", "all_to_all", "strongly_entangling", "su4_brick", "su4_staircase"])
def test_identity_blocks_start_as_the_identity_and_train(name):
    options = {"num_qubits": 3, "depth": 3, "identity_blocks": True}
    layer = QuantumLayer(name, circuit=options, initial="identity")
    assert layer.ansatz.num_weights == 2 * named_circuit(name, num_qubits=3, depth=3).num_weights
    assert len(layer.weights.unique()) == layer.ansatz.num_weights // 2, "angles are random"
    inputs = torch.randn(5, 3)
    bits = torch.arange(8) >> torch.arange(3)[:, None] & 1
    ones = torch.sin(inputs / 2).square()
    expected = torch.where(bits.bool(), ones[..., None], 1 - ones[..., None]).prod(1)
    torch.testing.assert_close(layer(inputs), expected, atol=1e-5, rtol=0)
    layer(inputs)[:, 0].sum().backward()
    assert layer.weights.grad.abs().max() > 1e-3


def test_initial_weights_from_a_file(tmp_path):
    numbers = torch.randn(8)
    torch.save(numbers, tmp_path / "w.pt")
    np.save(tmp_path / "w.npy", numbers.numpy())
    for name in ("w.pt", "w.npy"):
        for path in (tmp_path / name, str(tmp_path / name)):
            layer = QuantumLayer("ring", circuit={"num_qubits": 4, "gates": ["ry"]}, initial=path)
            assert torch.equal(layer.weights, numbers)
    with pytest.raises(ValueError, match=r"of shape \(8,\); it must be .*, 4 numbers, or a .npy or .pt file"):
        QuantumLayer("ring", circuit={"num_qubits": 4, "gates": ["ry"], "depth": 1}, initial=tmp_path / "w.pt")
    (tmp_path / "text.npy").write_text("0.1 0.2")
    with pytest.raises(ValueError, match="cannot read numbers from"):
        QuantumLayer("ring", initial=tmp_path / "text.npy")
    np.save(tmp_path / "objects.npy", np.array([print], object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot read numbers from"):
        QuantumLayer("ring", initial=tmp_path / "objects.npy")
    with pytest.raises(FileNotFoundError):
        QuantumLayer("ring", initial="nowhere.npy")
    with pytest.raises(ValueError, match="'identity' needs a circuit of layers and their inverses"):
        QuantumLayer("ring", initial="identity")
    with pytest.raises(ValueError, match="Invalid initial: 'zeros'; it must be 'uniform'"):
        QuantumLayer("ring", initial="zeros")


# ---- files


def example():
    x, w = ParameterVector("x", 11), ParameterVector("w", 2)
    circuit = QuantumCircuit(2)
    for k in range(11):
        circuit.ry(x[k] * (k + 1) / 11, k % 2)
    circuit.cx(0, 1)
    circuit.rx(w[1], 0)
    circuit.ry(w[0], 1)
    return circuit


def test_openqasm_3_by_file_and_text_with_numbers_in_their_order(tmp_path):
    text = 'OPENQASM 3.0; include "stdgates.inc"; qubit[2] q; '
    text += " ".join(f"input float[64] x{k};" for k in (*range(11), "_last")) + " input float[64] w;"
    text += " ".join(f"ry(x{k}) q[{k % 2}]; cx q[0], q[1];" for k in range(11)) + " ry(x_last) q[0]; rx(w) q[1];"
    (tmp_path / "mine.qasm").write_text(text)
    for source in (text, tmp_path / "mine.qasm", str(tmp_path / "mine.qasm")):
        ansatz = from_qasm(source, inputs="x*")
        assert [p.name for p in ansatz.inputs] == [*(f"x{k}" for k in range(11)), "x_last"]
        assert [p.name for p in ansatz.weights] == ["w"]
    assert from_qasm(text, inputs=["x10", "x0"]).num_weights == 11
    plain = from_qasm('OPENQASM 2.0; include "qelib1.inc"; qreg q[2]; h q[0]; cx q[0], q[1];', inputs="x*")
    np.testing.assert_allclose(QuantumLayer(plain)()[0], [0.5, 0, 0, 0.5], atol=1e-6)


def test_qpy(tmp_path):
    with open(tmp_path / "mine.qpy", "wb") as file:
        qpy.dump(example(), file)
    ansatz = from_qpy(tmp_path / "mine.qpy", inputs="x*")
    assert (ansatz.num_inputs, ansatz.num_weights) == (11, 2)
    assert [p.name for p in ansatz.inputs][-2:] == ["x[9]", "x[10]"]
    row, weights = np.linspace(-1, 2, 11), np.array([0.3, -0.8])
    values = {f"x[{k}]": row[k] for k in range(11)} | {f"w[{k}]": weights[k] for k in range(2)}
    expected = Statevector(example().assign_parameters(values)).probabilities()
    found = CircuitSimulator(ansatz)(torch.from_numpy(row[None]), torch.from_numpy(weights))
    np.testing.assert_allclose(found[0], expected, atol=1e-12)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No OpenQASM file 'none\.qasm'; a text begins with OPENQASM"):
        from_qasm("none.qasm", inputs="x*")
    with pytest.raises(ValueError, match="Invalid OpenQASM in the text"):
        from_qasm("OPENQASM 3.0; qubit[2] q; nothing q[0];", inputs="x*")
    with pytest.raises(ValueError, match=r"it must say OPENQASM 2.0; or OPENQASM 3.0;"):
        from_qasm("OPENQASM 4.0;", inputs="x*")
    text = qasm3.dumps(example())
    with pytest.raises(ValueError, match=r"Invalid inputs: 'y\*' matches none of the circuit's parameters"):
        from_qasm(text, inputs="y*")
    with pytest.raises(ValueError, match="Invalid weights: 'v'; the circuit has"):
        from_qasm(text, inputs="_x*", weights=["v"])
    (tmp_path / "text.qpy").write_text("QISKIT, but no circuit")
    with pytest.raises(ValueError, match="Cannot read a circuit from"):
        from_qpy(tmp_path / "text.qpy", inputs="x*")
    two, old = io.BytesIO(), io.BytesIO()
    qpy.dump([example(), example()], two)
    (tmp_path / "two.qpy").write_bytes(two.getvalue())
    with pytest.raises(ValueError, match="holds 2 circuits; it must hold one"):
        from_qpy(tmp_path / "two.qpy", inputs="x*")
    qpy.dump(example(), old)
    data = bytearray(old.getvalue())
    data[6] = 12  # the version
    (tmp_path / "old.qpy").write_bytes(data)
    with pytest.raises(ValueError, match="it is QPY 12; versions below 13 may run code"):
        from_qpy(tmp_path / "old.qpy", inputs="x*")
