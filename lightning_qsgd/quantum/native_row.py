# pyright: reportCallIssue=false
# (numba passes the first parameter of intrinsics.)
"""Kernels of the native engine for few rows: one row at a time, 16 amplitudes in a vector; see native_rows.py."""

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
    swap_1,
    swap_2,
    swap_4,
    swap_8,
    total,
)
from lightning_qsgd.quantum.native_rows import PAIR, PHASES, RX

W = LANES


@compiled
def _swapped(v, d):
    """Lane k gets the value of lane k XOR d."""
    if d & 1:
        v = swap_1(v)
    if d & 2:
        v = swap_2(v)
    if d & 4:
        v = swap_4(v)
    if d & 8:
        v = swap_8(v)
    return v


@compiled
def _fill(own, other, m, c, s, sign, undo):
    """Factors of a lane's amplitude and of its partner's, where the rest of the index is even, then where it is odd."""
    for odd in range(2):
        for lane in range(W):
            up = (count_ones(lane & m) + odd) & 1
            own[odd * W + lane] = sign * c if up else c
            upper, lower = (-sign * s, s) if undo else (s, -sign * s)
            other[odd * W + lane] = upper if up else lower


@compiled
def _real_row(x, start, size, d, m, own, other):
    dh, mh, dl = d // W, m // W, d % W
    a0, a1, b0, b1 = load(own, 0), load(own, W), load(other, 0), load(other, W)
    if dh == 0:
        for k in range(size // W):
            i = start + k * W
            v = load(x, i)
            odd = count_ones(k & mh) & 1
            store(x, i, add(multiply(a1 if odd else a0, v), multiply(b1 if odd else b0, _swapped(v, dl))))
        return
    p = highest_bit(dh)
    for h in range(size // (2 * W)):
        k = (h & (p - 1)) | ((h & -p) << 1)
        i, j = start + k * W, start + (k ^ dh) * W
        v, w = load(x, i), load(x, j)
        odd, behind = count_ones(k & mh) & 1, count_ones((k ^ dh) & mh) & 1
        store(x, i, add(multiply(a1 if odd else a0, v), multiply(b1 if odd else b0, _swapped(w, dl))))
        store(x, j, add(multiply(a1 if behind else a0, w), multiply(b1 if behind else b0, _swapped(v, dl))))


@compiled
def _slope_row(x, y, start, size, d, m, lanes, result):
    """``result`` plus y[i] x[i XOR d], with the sign of i's parity; ``lanes`` has signs as in :func:`_fill`."""
    dh, mh, dl = d // W, m // W, d % W
    s0, s1 = load(lanes, 0), load(lanes, W)
    for k in range(size // W):
        v = multiply(load(y, start + k * W), _swapped(load(x, start + (k ^ dh) * W), dl))
        result = add(result, multiply(s1 if count_ones(k & mh) & 1 else s0, v))
    return result


@compiled
def _rx_row(x, size, d, c, s):
    """Undone by -s."""
    dh, dl = d // W, d % W
    vc, vs = broadcast(c), broadcast(s)
    p = highest_bit(dh) if dh else 0
    for k in range(size // W):
        if k & p:
            continue
        i, j = k * W, (k ^ dh) * W
        a, u = load(x, i), load(x, size + i)
        b, v = load(x, j), load(x, size + j)
        store(x, i, add(multiply(vc, a), multiply(vs, _swapped(v, dl))))
        store(x, size + i, subtract(multiply(vc, u), multiply(vs, _swapped(b, dl))))
        if dh:
            store(x, j, add(multiply(vc, b), multiply(vs, _swapped(u, dl))))
            store(x, size + j, subtract(multiply(vc, v), multiply(vs, _swapped(a, dl))))


@compiled
def _rx_row_slope(x, y, size, d):
    dh, dl = d // W, d % W
    result = broadcast(x.dtype.type(0))
    for k in range(size // W):
        i, j = k * W, (k ^ dh) * W
        one = multiply(load(y, i), _swapped(load(x, size + j), dl))
        result = add(result, subtract(one, multiply(load(y, size + i), _swapped(load(x, j), dl))))
    return total(result)


@compiled
def _fill_phases(lanes, cos, sin, r, terms, first, count, undo):
    """(count, 2, LANES): cos and sin of the lanes of each term, where the rest of the index is even."""
    for t in range(count):
        c, s, m = cos[terms[first + t, 0], r], sin[terms[first + t, 0], r], terms[first + t, 1]
        for lane in range(W):
            odd = count_ones(lane & m) & 1
            lanes[(2 * t) * W + lane] = c
            lanes[(2 * t + 1) * W + lane] = s if odd != undo else -s


@compiled
def _phases_row(x, size, terms, first, count, lanes, real):
    for k in range(size // W):
        i = k * W
        a = load(x, i)
        b = broadcast(x.dtype.type(0)) if real else load(x, size + i)
        for t in range(count):
            c, s = load(lanes, 2 * t * W), load(lanes, (2 * t + 1) * W)
            if count_ones(k & (terms[first + t, 1] // W)) & 1:
                a, b = add(multiply(c, a), multiply(s, b)), subtract(multiply(c, b), multiply(s, a))
            else:
                a, b = subtract(multiply(c, a), multiply(s, b)), add(multiply(c, b), multiply(s, a))
        store(x, i, a)
        store(x, size + i, b)


@compiled
def _phases_row_slope(x, y, size, terms, first, count, sums):
    """(count, LANES) sums, before the signs of the lanes."""
    zero = broadcast(x.dtype.type(0))
    for t in range(count):
        store(sums, t * W, zero)
    for k in range(size // W):
        i = k * W
        one = subtract(multiply(load(y, i), load(x, size + i)), multiply(load(y, size + i), load(x, i)))
        for t in range(count):
            before = load(sums, t * W)
            odd = count_ones(k & (terms[first + t, 1] // W)) & 1
            store(sums, t * W, subtract(before, one) if odd else add(before, one))


@compiled
def forward_row(cos, sin, n, ops, terms, signs, states, keep, out):
    """As :func:`forward_rows`, row after row; ``states`` is (B, C * N), ``out`` (B, N); n is at least 4."""
    size, number = 1 << n, cos.dtype.type
    own, other = np.empty(2 * W, cos.dtype), np.empty(2 * W, cos.dtype)
    lanes = np.empty(2 * W * max(len(terms), 1), cos.dtype)
    scratch = np.empty(0 if keep else 2 * size, cos.dtype)
    for r in range(cos.shape[1]):
        x = states[r] if keep else scratch
        x[0] = number(1)
        for q in range(n):
            c, s, half = cos[q, r], sin[q, r], 1 << q
            for k in range(half):
                a = x[k]
                x[k + half] = s * a
                x[k] = c * a
        parts = 1
        for i in range(len(ops)):
            kind, row, d, m = ops[i, 0], ops[i, 1], ops[i, 2], ops[i, 3]
            if kind == PHASES:
                _fill_phases(lanes, cos, sin, r, terms, row, m, False)
                _phases_row(x, size, terms, row, m, lanes, parts == 1)
                parts = 2
            elif kind == RX:
                if parts == 1:
                    x[size : 2 * size] = number(0)
                    parts = 2
                _rx_row(x, size, d, cos[row, r], sin[row, r])
            else:
                _fill(own, other, m % W, cos[row, r], sin[row, r], signs[i, 0], False)
                for part in range(parts):
                    _real_row(x, part * size, size, d, m, own, other)
                if kind == PAIR:
                    row, d, m = ops[i, 4], ops[i, 5], ops[i, 6]
                    _fill(own, other, m % W, cos[row, r], sin[row, r], signs[i, 1], False)
                    for part in range(parts):
                        _real_row(x, part * size, size, d, m, own, other)
        flat = out[r]
        for k in range(0, size, W):
            a = load(x, k)
            p = multiply(a, a)
            if parts == 2:
                b = load(x, size + k)
                p = add(p, multiply(b, b))
            store(flat, k, p)


@compiled
def _undo_real(x, y, size, parts, d, m, c, s, sign, own, other, lanes):
    number = x.dtype.type
    for odd in range(2):
        for lane in range(W):
            lanes[odd * W + lane] = number(1) if (count_ones(lane & m) + odd) & 1 else number(-1)
    slope = broadcast(number(0))
    for part in range(parts):
        slope = _slope_row(x, y, part * size, size, d, m, lanes, slope)
    _fill(own, other, m % W, c, s, sign, True)
    for part in range(parts):
        _real_row(x, part * size, size, d, m, own, other)
        _real_row(y, part * size, size, d, m, own, other)
    return total(slope)


@compiled
def backward_row(cos, sin, n, ops, terms, signs, states, grad, by_angle):
    """As :func:`backward_rows`, row after row; ``grad`` is (B, N), ``by_angle`` (A, B)."""
    size, number = 1 << n, cos.dtype.type
    x, y = np.empty(2 * size, cos.dtype), np.empty(2 * size, cos.dtype)
    own, other, alternating = np.empty(2 * W, cos.dtype), np.empty(2 * W, cos.dtype), np.empty(2 * W, cos.dtype)
    lanes, sums = np.empty(2 * W * max(len(terms), 1), cos.dtype), np.empty(W * max(len(terms), 1), cos.dtype)
    first = len(ops)
    for i in range(len(ops)):
        if ops[i, 0] >= RX:
            first = min(first, i)
    for r in range(cos.shape[1]):
        parts = 1 if first == len(ops) else 2
        final, given = states[r], grad[r]
        for part in range(parts):
            for k in range(size):
                a = final[part * size + k]
                x[part * size + k] = a
                y[part * size + k] = number(2) * given[k] * a
        for i in range(len(ops) - 1, -1, -1):
            kind, row, d, m = ops[i, 0], ops[i, 1], ops[i, 2], ops[i, 3]
            if kind == PHASES:
                _phases_row_slope(x, y, size, terms, row, m, sums)
                for t in range(m):
                    slope = number(0)
                    for lane in range(W):
                        one = sums[t * W + lane]
                        slope += -one if count_ones(lane & terms[row + t, 1]) & 1 else one
                    by_angle[terms[row + t, 0], r] = slope
                _fill_phases(lanes, cos, sin, r, terms, row, m, True)
                _phases_row(x, size, terms, row, m, lanes, False)
                _phases_row(y, size, terms, row, m, lanes, False)
            elif kind == RX:
                by_angle[row, r] = _rx_row_slope(x, y, size, d)
                _rx_row(x, size, d, cos[row, r], -sin[row, r])
                _rx_row(y, size, d, cos[row, r], -sin[row, r])
            else:
                if kind == PAIR:
                    last, e, o = ops[i, 4], ops[i, 5], ops[i, 6]
                    by_angle[last, r] = _undo_real(
                        x, y, size, parts, e, o, cos[last, r], sin[last, r], signs[i, 1], own, other, alternating
                    )
                by_angle[row, r] = _undo_real(
                    x, y, size, parts, d, m, cos[row, r], sin[row, r], signs[i, 0], own, other, alternating
                )
            if i == first:
                parts = 1
        for q in range(n):  # the product state
            for odd in range(2):
                for lane in range(W):
                    alternating[odd * W + lane] = number(1) if (count_ones(lane & (1 << q)) + odd) & 1 else number(-1)
            by_angle[q, r] = total(_slope_row(x, y, 0, size, 1 << q, 1 << q, alternating, broadcast(number(0))))
