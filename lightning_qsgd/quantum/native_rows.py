# pyright: reportCallIssue=false
# (numba passes the first parameter of intrinsics.)
"""Kernels of the native engine for many rows: forward, and backward through the gates, 16 rows at a time.

The state is kept as C real numbers for each amplitude, C = 1 (real) until the first gate with an imaginary part, 2
after it. Backward, gates are undone, so that memory does not grow with the depth (adjoint differentiation: Jones and
Gacon 2020, arXiv 2009.02823).

Amplitudes are never moved: CX and SWAP permute basis states by a map that is linear over GF(2), so that after any of
them a gate on a qubit still pairs amplitude i with i XOR ``d``, and the qubit is the parity of i AND ``m`` (see
native.py). Shapes: N = 2**n, B rows, padded to a multiple of LANES where rows are lanes, A angles.

Kernels check nothing: native.py hands them arrays of the right shapes.
"""

from __future__ import annotations

import numpy as np

from lightning_qsgd.quantum.lanes import (
    LANES,
    add,
    broadcast,
    compiled,
    count_ones,
    highest_bit,
    load,
    multiply,
    store,
    subtract,
    total,
)

#: Kinds of operations: columns of ``ops`` are kind, angle, d, m, sign, and what the kind adds.
REAL, PAIR, RX, PHASES = 0, 1, 2, 3
W = LANES


@compiled
def _pivots(d, e):
    """Bits p > q such that each coset of {0, d, e, d XOR e} has one member without both."""
    p = 1
    while 2 * p <= d:
        p *= 2
    if e & p:
        e ^= d
    q = 1
    while 2 * q <= e:
        q *= 2
    return (p, q) if p > q else (q, p)


@compiled
def _real_rows(x, start, size, d, m, c, s, ss, cc):
    p = highest_bit(d)
    for k in range(size // 2):
        i = (k & (p - 1)) | ((k & -p) << 1)
        i ^= d * (count_ones(i & m) & 1)
        i, j = start + i * W, start + (i ^ d) * W
        a, b = load(x, i), load(x, j)
        store(x, i, subtract(multiply(c, a), multiply(ss, b)))
        store(x, j, add(multiply(s, a), multiply(cc, b)))


@compiled
def _pair_rows(x, start, size, d, m, e, o, c, s, ss, cc, f, t, tt, ff):
    p, q = _pivots(d, e)
    for k in range(size // 4):
        i = (k & (q - 1)) | ((k & -q) << 1)
        i = (i & (p - 1)) | ((i & -p) << 1)
        i ^= d * (count_ones(i & m) & 1) ^ e * (count_ones(i & o) & 1)
        i0, i1, i2, i3 = start + i * W, start + (i ^ d) * W, start + (i ^ e) * W, start + (i ^ d ^ e) * W
        a0, a1, a2, a3 = load(x, i0), load(x, i1), load(x, i2), load(x, i3)
        b0, b1 = subtract(multiply(c, a0), multiply(ss, a1)), add(multiply(s, a0), multiply(cc, a1))
        b2, b3 = subtract(multiply(c, a2), multiply(ss, a3)), add(multiply(s, a2), multiply(cc, a3))
        store(x, i0, subtract(multiply(f, b0), multiply(tt, b2)))
        store(x, i2, add(multiply(t, b0), multiply(ff, b2)))
        store(x, i1, subtract(multiply(f, b1), multiply(tt, b3)))
        store(x, i3, add(multiply(t, b1), multiply(ff, b3)))


@compiled
def _real_rows_back(x, y, start, size, d, m, c, s, ss, cc, slope):
    p = highest_bit(d)
    for k in range(size // 2):
        i = (k & (p - 1)) | ((k & -p) << 1)
        i ^= d * (count_ones(i & m) & 1)
        i, j = start + i * W, start + (i ^ d) * W
        a, b, u, v = load(x, i), load(x, j), load(y, i), load(y, j)
        slope = subtract(add(slope, multiply(v, a)), multiply(u, b))
        store(x, i, add(multiply(c, a), multiply(s, b)))
        store(x, j, subtract(multiply(cc, b), multiply(ss, a)))
        store(y, i, add(multiply(c, u), multiply(s, v)))
        store(y, j, subtract(multiply(cc, v), multiply(ss, u)))
    return slope


@compiled
def _undo_pair(x, i0, i1, i2, i3, c, s, ss, cc, f, t, tt, ff):
    a0, a1, a2, a3 = load(x, i0), load(x, i1), load(x, i2), load(x, i3)
    b0, b1 = add(multiply(c, a0), multiply(s, a1)), subtract(multiply(cc, a1), multiply(ss, a0))
    b2, b3 = add(multiply(c, a2), multiply(s, a3)), subtract(multiply(cc, a3), multiply(ss, a2))
    store(x, i0, add(multiply(f, b0), multiply(t, b2)))
    store(x, i2, subtract(multiply(ff, b2), multiply(tt, b0)))
    store(x, i1, add(multiply(f, b1), multiply(t, b3)))
    store(x, i3, subtract(multiply(ff, b3), multiply(tt, b1)))


@compiled
def _pair_rows_back(x, y, start, size, d, m, e, o, c, s, ss, cc, f, t, tt, ff, slope, other):
    p, q = _pivots(d, e)
    for k in range(size // 4):
        i = (k & (q - 1)) | ((k & -q) << 1)
        i = (i & (p - 1)) | ((i & -p) << 1)
        i ^= d * (count_ones(i & m) & 1) ^ e * (count_ones(i & o) & 1)
        i0, i1, i2, i3 = start + i * W, start + (i ^ d) * W, start + (i ^ e) * W, start + (i ^ d ^ e) * W
        a0, a1, a2, a3 = load(x, i0), load(x, i1), load(x, i2), load(x, i3)
        u0, u1, u2, u3 = load(y, i0), load(y, i1), load(y, i2), load(y, i3)
        slope = subtract(add(slope, multiply(u1, a0)), multiply(u0, a1))
        slope = subtract(add(slope, multiply(u3, a2)), multiply(u2, a3))
        other = subtract(add(other, multiply(u2, a0)), multiply(u0, a2))
        other = subtract(add(other, multiply(u3, a1)), multiply(u1, a3))
        _undo_pair(x, i0, i1, i2, i3, c, s, ss, cc, f, t, tt, ff)
        _undo_pair(y, i0, i1, i2, i3, c, s, ss, cc, f, t, tt, ff)
    return slope, other


@compiled
def _rx_rows(x, size, d, c, s):
    """Undone by -s."""
    p, half = highest_bit(d), size * W
    for k in range(size // 2):
        i = (k & (p - 1)) | ((k & -p) << 1)
        i, j = i * W, (i ^ d) * W
        a, b, u, v = load(x, i), load(x, j), load(x, half + i), load(x, half + j)
        store(x, i, add(multiply(c, a), multiply(s, v)))
        store(x, half + i, subtract(multiply(c, u), multiply(s, b)))
        store(x, j, add(multiply(c, b), multiply(s, u)))
        store(x, half + j, subtract(multiply(c, v), multiply(s, a)))


@compiled
def _rx_rows_slope(x, y, size, d, slope):
    half = size * W
    for k in range(size):
        i, j = k * W, (k ^ d) * W
        slope = subtract(add(slope, multiply(load(y, i), load(x, half + j))), multiply(load(y, half + i), load(x, j)))
    return slope


@compiled
def _turn(x, i, j, c, s, real):
    """Multiply an amplitude, with its real part at i and its imaginary part at j, by c + i s."""
    a = load(x, i)
    if real:
        store(x, i, multiply(c, a))
        store(x, j, multiply(s, a))
    else:
        b = load(x, j)
        store(x, i, subtract(multiply(c, a), multiply(s, b)))
        store(x, j, add(multiply(c, b), multiply(s, a)))


@compiled
def _phase_rows(x, size, m, c, s, real):
    """exp(-i t) where the parity is even, exp(i t) where it is odd; undone by -s."""
    half = size * W
    minus = subtract(multiply(s, broadcast(x.dtype.type(0))), s)
    for k in range(size):
        i = k * W
        t = s if count_ones(k & m) & 1 else minus
        _turn(x, i, half + i, c, t, real)


@compiled
def _phase_rows_slope(x, y, size, m, slope):
    half = size * W
    for k in range(size):
        i = k * W
        one = subtract(multiply(load(y, i), load(x, half + i)), multiply(load(y, half + i), load(x, i)))
        slope = subtract(slope, one) if count_ones(k & m) & 1 else add(slope, one)
    return slope


@compiled
def _table_rows(x, size, cos, sin, sign, real):
    half = size * W
    for k in range(size):
        i = k * W
        c, s = broadcast(cos[k]), broadcast(sign * sin[k])
        _turn(x, i, half + i, c, s, real)


@compiled
def _table_rows_slope(x, y, size, by_amplitude):
    half = size * W
    for k in range(size):
        i = k * W
        one = subtract(multiply(load(y, half + i), load(x, i)), multiply(load(y, i), load(x, half + i)))
        store(by_amplitude, i, add(load(by_amplitude, i), one))


@compiled
def tables(cos, sin, terms, ops, size):
    """(T, 2, N): cos and sin of the phases of each layer that all rows share, from angles of the first row."""
    count = 0
    for i in range(len(ops)):
        if ops[i, 0] == PHASES:
            count += 1
    out = np.empty((count, 2, size), cos.dtype)
    t = 0
    for i in range(len(ops)):
        if ops[i, 0] != PHASES:
            continue
        re, im = out[t, 0], out[t, 1]
        t += 1
        re[:] = 1
        im[:] = 0
        for term in range(ops[i, 1], ops[i, 1] + ops[i, 2]):
            c, s, m = cos[terms[term, 0], 0], sin[terms[term, 0], 0], terms[term, 1]
            for k in range(size):
                u = s * (2 * (count_ones(k & m) & 1) - 1)
                a, b = re[k], im[k]
                re[k] = c * a - u * b
                im[k] = c * b + u * a
    return out


@compiled
def forward_rows(cos, sin, n, ops, terms, signs, table, states, keep, out):
    """Probabilities, and the last states where ``keep``.

    Args:
        cos, sin: (A, B) of the angles; the first n are of the product state.
        ops, terms: the program; see native.py.
        signs: (len(ops), 2) 1 or -1: rotations and reflections.
        table: of :func:`tables`.
        states: (B / LANES, C * N * LANES), written where ``keep``.
        out: (N, B), written; row i is physical amplitude i.
    """
    size, batch = 1 << n, cos.shape[1]
    angles_cos, angles_sin, flat = cos.reshape(-1), sin.reshape(-1), out.reshape(-1)
    scratch = np.empty(0 if keep else 2 * size * W, cos.dtype)
    for block in range(batch // W):
        r = block * W
        x = states[block] if keep else scratch
        store(x, 0, broadcast(cos.dtype.type(1)))
        for q in range(n):
            c, s, half = load(angles_cos, q * batch + r), load(angles_sin, q * batch + r), 1 << q
            for k in range(half):
                a = load(x, k * W)
                store(x, (k + half) * W, multiply(s, a))
                store(x, k * W, multiply(c, a))
        parts, layer = 1, 0
        for i in range(len(ops)):
            kind, row, d, m = ops[i, 0], ops[i, 1] * batch + r, ops[i, 2], ops[i, 3]
            if kind == PHASES:
                if ops[i, 2]:
                    _table_rows(x, size, table[layer, 0], table[layer, 1], cos.dtype.type(1), parts == 1)
                    parts = 2
                layer += 1
                for term in range(ops[i, 1] + ops[i, 2], ops[i, 1] + ops[i, 3]):
                    row = terms[term, 0] * batch + r
                    _phase_rows(x, size, terms[term, 1], load(angles_cos, row), load(angles_sin, row), parts == 1)
                    parts = 2
                continue
            c, s = load(angles_cos, row), load(angles_sin, row)
            if kind == RX:
                if parts == 1:
                    zero = broadcast(cos.dtype.type(0))
                    for k in range(size):
                        store(x, (size + k) * W, zero)
                    parts = 2
                _rx_rows(x, size, d, c, s)
                continue
            sign = broadcast(signs[i, 0])
            ss, cc = multiply(sign, s), multiply(sign, c)
            if kind == REAL:
                for part in range(parts):
                    _real_rows(x, part * size * W, size, d, m, c, s, ss, cc)
            else:
                row = ops[i, 4] * batch + r
                f, t, sign = load(angles_cos, row), load(angles_sin, row), broadcast(signs[i, 1])
                tt, ff = multiply(sign, t), multiply(sign, f)
                for part in range(parts):
                    _pair_rows(x, part * size * W, size, d, m, ops[i, 5], ops[i, 6], c, s, ss, cc, f, t, tt, ff)
        for k in range(size):
            a = load(x, k * W)
            p = multiply(a, a)
            if parts == 2:
                b = load(x, (size + k) * W)
                p = add(p, multiply(b, b))
            store(flat, k * batch + r, p)


@compiled
def backward_rows(cos, sin, n, ops, terms, signs, table, states, grad, by_angle, by_amplitude):
    """Derivatives by the angles.

    Args:
        grad: (N, B), of the outputs.
        by_angle: (A, B), written; of terms that all rows share, nothing.
        by_amplitude: (T, N * LANES) zeros, added to: derivatives by the phase of each amplitude in each table.

    The others as in :func:`forward_rows`.
    """
    size, batch = 1 << n, cos.shape[1]
    angles_cos, angles_sin = cos.reshape(-1), sin.reshape(-1)
    given, found = grad.reshape(-1), by_angle.reshape(-1)
    x, y = np.empty(2 * size * W, cos.dtype), np.empty(2 * size * W, cos.dtype)
    zero, two = broadcast(cos.dtype.type(0)), broadcast(cos.dtype.type(2))
    first, layers = len(ops), 0  # the first operation with an imaginary part
    for i in range(len(ops)):
        if ops[i, 0] >= RX:
            first = min(first, i)
        if ops[i, 0] == PHASES:
            layers += 1
    for block in range(batch // W):
        r = block * W
        parts, layer = 1 if first == len(ops) else 2, layers
        final = states[block]
        for k in range(size):
            g = multiply(two, load(given, k * batch + r))
            for part in range(parts):
                a = load(final, (part * size + k) * W)
                store(x, (part * size + k) * W, a)
                store(y, (part * size + k) * W, multiply(g, a))
        for i in range(len(ops) - 1, -1, -1):
            kind, place, d, m = ops[i, 0], ops[i, 1] * batch + r, ops[i, 2], ops[i, 3]
            if kind == PHASES:
                layer -= 1
                for term in range(ops[i, 1] + ops[i, 3] - 1, ops[i, 1] + ops[i, 2] - 1, -1):
                    place = terms[term, 0] * batch + r
                    store(found, place, _phase_rows_slope(x, y, size, terms[term, 1], zero))
                    c, s = load(angles_cos, place), subtract(zero, load(angles_sin, place))
                    _phase_rows(x, size, terms[term, 1], c, s, False)
                    _phase_rows(y, size, terms[term, 1], c, s, False)
                if ops[i, 2]:
                    _table_rows_slope(x, y, size, by_amplitude[layer])
                    _table_rows(x, size, table[layer, 0], table[layer, 1], cos.dtype.type(-1), False)
                    _table_rows(y, size, table[layer, 0], table[layer, 1], cos.dtype.type(-1), False)
            elif kind == RX:
                store(found, place, _rx_rows_slope(x, y, size, d, zero))
                c, s = load(angles_cos, place), subtract(zero, load(angles_sin, place))
                _rx_rows(x, size, d, c, s)
                _rx_rows(y, size, d, c, s)
            else:
                c, s, sign = load(angles_cos, place), load(angles_sin, place), broadcast(signs[i, 0])
                ss, cc, slope = multiply(sign, s), multiply(sign, c), zero
                if kind == REAL:
                    for part in range(parts):
                        slope = _real_rows_back(x, y, part * size * W, size, d, m, c, s, ss, cc, slope)
                else:
                    row, e, o, other = ops[i, 4] * batch + r, ops[i, 5], ops[i, 6], zero
                    f, t, sign = load(angles_cos, row), load(angles_sin, row), broadcast(signs[i, 1])
                    tt, ff = multiply(sign, t), multiply(sign, f)
                    for part in range(parts):
                        slope, other = _pair_rows_back(
                            x, y, part * size * W, size, d, m, e, o, c, s, ss, cc, f, t, tt, ff, slope, other
                        )
                    store(found, row, other)
                store(found, place, slope)
            if i == first:
                parts = 1
        _product_rows_back(x, y, n, angles_cos, angles_sin, batch, r, found)


@compiled
def _product_rows_back(x, y, n, angles_cos, angles_sin, batch, r, found):
    """Of the product state: contract ``y`` with one factor after another; ``x`` takes products of the lower ones."""
    zero = broadcast(x.dtype.type(0))
    store(x, 0, broadcast(x.dtype.type(1)))
    for q in range(n - 1):  # the product of the first q factors begins at 2**q, or at 0 for q = 0
        c, s, half = load(angles_cos, q * batch + r), load(angles_sin, q * batch + r), 1 << q
        start = 0 if q == 0 else half
        for k in range(half):
            a = load(x, (start + k) * W)
            store(x, (2 * half + k) * W, multiply(c, a))
            store(x, (3 * half + k) * W, multiply(s, a))
    for q in range(n - 1, -1, -1):
        c, s, half = load(angles_cos, q * batch + r), load(angles_sin, q * batch + r), 1 << q
        start, up, down = 0 if q == 0 else half, zero, zero
        for k in range(half):
            u, v, a = load(y, k * W), load(y, (k + half) * W), load(x, (start + k) * W)
            up, down = add(up, multiply(v, a)), add(down, multiply(u, a))
            store(y, k * W, add(multiply(c, u), multiply(s, v)))
        store(found, q * batch + r, subtract(multiply(c, up), multiply(s, down)))


@compiled
def slopes_of_tables(by_amplitude, ops, terms, by_angle):
    """Write the derivatives by terms that all rows share into the first column of ``by_angle`` (A, B)."""
    layer, sums = 0, np.empty(by_amplitude.shape[1] // W, by_amplitude.dtype)
    for i in range(len(ops)):
        if ops[i, 0] != PHASES:
            continue
        for k in range(len(sums)):
            sums[k] = total(load(by_amplitude[layer], k * W))
        for term in range(ops[i, 1], ops[i, 1] + ops[i, 2]):
            slope = by_amplitude.dtype.type(0)
            for k in range(len(sums)):
                slope += sums[k] if count_ones(k & terms[term, 1]) & 1 else -sums[k]
            by_angle[terms[term, 0], 0] = slope
        layer += 1
