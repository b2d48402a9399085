"""Circuits from files: OpenQASM and QPY."""

from __future__ import annotations

import fnmatch
import re
import struct
from collections.abc import Sequence
from pathlib import Path

from qiskit import QuantumCircuit

from lightning_qsgd.quantum.circuits import Ansatz

SAFE_QPY = 13  # CVE-2025-2000: files of earlier versions may run code


def from_qasm(source: str | Path, inputs: str | Sequence[str], weights: str | Sequence[str] = "*") -> Ansatz:
    """Read a circuit in OpenQASM 2 or 3.

    Args:
        source: path of a file, or the text itself, which begins with ``OPENQASM``. Parameters are OpenQASM 3's
            ``input float[64] x0;``; OpenQASM 2 has none.
        inputs: names of the parameters that take data, in their order; or a pattern such as "x*" for all that match,
            in the order in which people count: x2 before x10.
        weights: likewise. Default: all others.

    Returns:
        The circuit; measurements at the end are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the text cannot be read, or names and parameters do not agree.
        ModuleNotFoundError: for OpenQASM 3 without qiskit-qasm3-import.

    Example:
        >>> parameters = 'OPENQASM 3.0; include "stdgates.inc"; input float[64] x0; input float[64] w0;'
        >>> gates = "qubit[2] q; ry(x0) q[0]; cx q[0], q[1]; ry(w0) q[1];"
        >>> from_qasm(parameters + gates, inputs="x*").num_weights
        1
    """
    from qiskit import qasm2, qasm3
    from qiskit.exceptions import QiskitError

    text, where = str(source), "the text"
    if not text.lstrip().startswith(("OPENQASM", "//", "/*")):
        where = text
        try:
            text = Path(source).read_text()
        except FileNotFoundError:
            raise FileNotFoundError(
                f"No OpenQASM file {where!r}; a text begins with OPENQASM and its version"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"Cannot read OpenQASM from {where!r}: {error}") from error
    version = re.search(r"^\s*OPENQASM\s+(\d)", text, re.MULTILINE)
    if version is None or version[1] not in "23":
        raise ValueError(f"Invalid OpenQASM in {where}: it must say OPENQASM 2.0; or OPENQASM 3.0; at its beginning")
    try:
        circuit = qasm2.loads(text) if version[1] == "2" else qasm3.loads(text)
    except QiskitError as error:
        raise ValueError(f"Invalid OpenQASM in {where}: {error}") from error
    return _chosen(circuit, inputs, weights)


def from_qpy(path: str | Path, inputs: str | Sequence[str], weights: str | Sequence[str] = "*") -> Ansatz:
    """Read a circuit that ``qiskit.qpy.dump`` wrote.

    Args:
        path: of the file, with one circuit, in QPY's version 13 (Qiskit 1.3) or later: reading earlier ones may run
            code that stands in the file.
        inputs, weights: as in :func:`from_qasm`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file, or names and parameters do not agree.
    """
    from qiskit import qpy
    from qiskit.exceptions import QiskitError

    with open(path, "rb") as file:
        try:
            version = qpy.get_qpy_version(file)
            if version < SAFE_QPY:
                raise ValueError(
                    f"Refused to read {str(path)!r}: it is QPY {version}; versions below {SAFE_QPY} may run "
                    "code that stands in the file; write it anew with Qiskit 1.3 or later, if you trust it"
                )
            file.seek(0)
            circuits = qpy.load(file)
        except (QiskitError, struct.error, UnicodeDecodeError, EOFError) as error:
            raise ValueError(f"Cannot read a circuit from {str(path)!r}: {error}") from error
    if len(circuits) != 1 or not isinstance(circuits[0], QuantumCircuit):
        raise ValueError(f"Invalid file: {str(path)!r} holds {len(circuits)} circuits; it must hold one")
    return _chosen(circuits[0], inputs, weights)


def _chosen(circuit: QuantumCircuit, inputs: str | Sequence[str], weights: str | Sequence[str]) -> Ansatz:
    """Split the parameters of a circuit by names or patterns."""
    own = {parameter.name: parameter for parameter in circuit.parameters}

    def names(kind: str, wanted: str | Sequence[str], among: list[str]) -> list[str]:
        if isinstance(wanted, str):
            return sorted(fnmatch.filter(among, wanted), key=_as_counted)
        if unknown := [name for name in wanted if name not in own]:
            raise ValueError(f"Invalid {kind}: {unknown[0]!r}; the circuit has {', '.join(own) or 'no parameters'}")
        return list(wanted)

    data = names("inputs", inputs, list(own))
    if not data and own and inputs:
        raise ValueError(f"Invalid inputs: {inputs!r} matches none of the circuit's parameters, {', '.join(own)}")
    rest = names("weights", weights, [name for name in own if name not in data])
    return Ansatz(circuit, [own[name] for name in data], [own[name] for name in rest])


def _as_counted(name: str) -> list[tuple[int, str]]:
    """Sort key with numbers by their value: x2 before x10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
