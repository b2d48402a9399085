"""A SIMD vector type for numba: 16 lanes of float32 or float64, which LLVM maps to what the processor has.

numba vectorises loops where it can prove that arrays do not overlap; kernels that work in place it does not. These are
LLVM's own vectors, by numba's public extension interface.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, models, register_model

LANES = 16


def compiled(function: Any) -> Any:
    """Compile a kernel: without the interpreter's lock, without checks of bounds, once for each machine if possible."""
    options = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache can be written to
        return njit(**options)(function)


class VectorType(types.Type):
    """``LANES`` numbers of one type."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype}, {LANES})")


def _llvm(vector: VectorType) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if vector.dtype == types.float32 else ir.DoubleType(), LANES)


def _indices(numbers: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), LANES), numbers)


@register_model(VectorType)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: VectorType) -> None:
        super().__init__(manager, vector, _llvm(vector))


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any, vector: VectorType) -> Any:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.bitcast(builder.gep(array.data, [arguments[1]]), _llvm(vector).as_pointer())


@intrinsic
def load(typingctx: Any, array: Any, start: Any) -> Any:
    """The lanes from ``array[start]`` on, of a contiguous 1-d array. Bounds are not checked."""
    vector = VectorType(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(context, builder, signature, arguments, vector), align=array.dtype.bitwidth // 8)

    return vector(array, types.intp), generate


@intrinsic
def store(typingctx: Any, array: Any, start: Any, value: Any) -> Any:
    """Write lanes from ``array[start]`` on. Bounds are not checked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature, arguments, value)
        builder.store(arguments[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@intrinsic
def broadcast(typingctx: Any, number: Any) -> Any:
    """One number in all lanes."""
    vector = VectorType(number)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        undefined = ir.Constant(_llvm(vector), ir.Undefined)
        first = builder.insert_element(undefined, arguments[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, undefined, _indices([0] * LANES))

    return vector(number), generate


@intrinsic
def total(typingctx: Any, value: Any) -> Any:
    """The sum of the lanes, in pairs."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        parts = [builder.extract_element(arguments[0], ir.Constant(ir.IntType(32), k)) for k in range(LANES)]
        while len(parts) > 1:
            parts = [builder.fadd(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    return value.dtype(value), generate


def _swapping(bit: int) -> Any:
    @intrinsic
    def swapped(typingctx: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.shuffle_vector(arguments[0], arguments[0], _indices([k ^ bit for k in range(LANES)]))

        return value(value), generate

    return swapped


#: Lane k gets the value of lane k XOR 1, 2, 4, 8.
swap_1, swap_2, swap_4, swap_8 = (_swapping(bit) for bit in (1, 2, 4, 8))


def _arithmetic(instruction: str) -> Any:
    @intrinsic
    def operation(typingctx: Any, first: Any, second: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(*arguments, flags=("contract",))  # a product and a sum may be one

        return first(first, second), generate

    return operation


add, subtract, multiply = (_arithmetic(name) for name in ("fadd", "fsub", "fmul"))


@intrinsic
def count_ones(typingctx: Any, number: Any) -> Any:
    """The number of ones of an integer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.intp(types.intp), generate


@compiled
def highest_bit(d: int) -> int:
    """The highest power of 2 in ``d``, which is at least 1."""
    p = 1
    while 2 * p <= d:
        p *= 2
    return p
