"""A hint to the memory system, for compiled loops over random places.

The state of a billion keys does not fit into any processor cache, so the first touch of a key costs a trip to memory.
Loops know their keys far ahead, so they ask for the state of a later key while they work on the present one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

DISTANCE = 24  # iterations ahead: long enough for one trip to memory at a few nanoseconds each


def _hint(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of array[index] (1-D) or array[index, 0] (2-D); C-contiguous, index must be valid.

    It changes nothing but the time that a later access takes.
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
        # For writing, to be kept in all cache levels, data.
        builder.call(function, [byte_pointer, int32(1), int32(3), int32(1)])
        return context.get_dummy_value()

    return types.void(array, index), generate


hint: Any = intrinsic(_hint)
