"""A hint to the processor to load a cache line, for compiled loops that access random elements of large arrays.

The states of a billion keys fit into no processor cache, so the first access to a key's state waits for memory. A loop
knows its keys far ahead. So it asks for the state of a later key while it works on the present one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

DISTANCE = 24  # how many elements ahead a loop asks; at a few nanoseconds per element, memory answers in time


def _hint(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of an element: array[index] of a 1-D array, array[index, 0] of a 2-D array.

    It has no effect but on the time of a later access.

    Args:
        array: C-contiguous, of any type.
        index: Must be valid; it is not checked.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type = signature.args[0]
        view = context.make_array(array_type)(context, builder, arguments[0])
        zero = context.get_constant(types.intp, 0)
        place = context.cast(builder, arguments[1], signature.args[1], types.intp)
        indices = [place] + [zero] * (array_type.ndim - 1)
        pointer = cgutils.get_item_pointer(context, builder, array_type, view, indices, wraparound=False)
        byte_pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
        int32 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte_pointer.type, int32, int32, int32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # The arguments of llvm.prefetch: for writing (1), kept in all cache levels (3), data (1).
        builder.call(function, [byte_pointer, int32(1), int32(3), int32(1)])
        return context.get_dummy_value()

    return types.void(array, index), generate


hint: Any = intrinsic(_hint)
