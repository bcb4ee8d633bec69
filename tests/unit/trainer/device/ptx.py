"""Compiles the kernels for an H100 and prints which instructions they consist of. This needs no GPU.

python -m tests.unit.trainer.device.ptx prints a JSON object: for each kernel, how often each of INSTRUCTIONS occurs.
"""

from __future__ import annotations

import json
import re
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bagpipe_hpc.trainer.device import kernels
from bagpipe_hpc.trainer.device.index_arrays import HOT_USES
from bagpipe_hpc.trainer.device.pooling_kernels import add_row_gradients_kernel, gather_rows_kernel, pool_rows_kernel
from bagpipe_hpc.trainer.device.row_step import NUM_PARAMETERS
from bagpipe_hpc.trainer.device.update_kernel import update_rows_kernel

H100 = GPUTarget("cuda", 90, 32)
DIM = 48
FEATURES = {"num_features": 26, "row_dim": DIM, "embedding_dim": DIM}
WIDTHS = {"sgd": DIM, "momentum": 2 * DIM, "adagrad": 2 * DIM, "rowwise_adagrad": DIM + 1, "adam": 3 * DIM}
FLOATS = {"cache", "out", "replicas", "weights", "divisors", "gradients", "own_gradients", "replica_gradients",
          "arrived", "parameters"}  # fmt: skip
SCALARS = {"num_rows": "i32", "num_samples": "i32", "num_own": "i32", "scale": "fp32", "inverse_scale": "fp32"}
INSTRUCTIONS = {
    "fused": r"\bfma\.rn\.f32", "divided": r"\bdiv\.rn\.f32", "root": r"\bsqrt\.rn\.f32",
    "inexact": r"\b(div\.full|div\.approx|sqrt\.approx|rcp\.approx)\b|\.ftz\b", "atomic": r"\b(atom|red)\.global",
    "16-byte loads": r"\bld\.global\.v4\.b32", "16-byte stores": r"\bst\.global\.v4\.b32",
}  # fmt: skip


def instructions(kernel: Any, num_warps: int, elements: int, **constants: Any) -> dict[str, int]:
    """How often each of INSTRUCTIONS occurs in a kernel."""
    rows, columns = kernels._tile(DIM, elements)
    constants |= {"block_rows": rows, "block_columns": columns}
    wire = "*i16" if constants.get("wire", "float32") != "float32" else "*fp32"

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        on_wire = name in ("replicas", "replica_gradients", "arrived")
        return wire if on_wire else SCALARS.get(name, "*fp32" if name in FLOATS else "*i32")

    signature = {name: kind(name) for name in kernel.arg_names}
    aligned: Any = {
        (place,): [["tt.divisibility", 16]]
        for place, parameter in enumerate(kernel.params)
        if signature[parameter.name].startswith("*") and not parameter.do_not_specialize_on_alignment
    }
    options = {"num_warps": num_warps, "enable_fp_fusion": False}
    compiled = triton.compile(ASTSource(kernel, signature, constants, aligned), target=H100, options=options)
    return {name: len(re.findall(pattern, compiled.asm["ptx"])) for name, pattern in INSTRUCTIONS.items()}


def main() -> None:
    """Compile all kernels."""
    found = {
        "gather": instructions(
            gather_rows_kernel, kernels.COPY_WARPS, kernels.COPY_ELEMENTS,
            row_width=2 * DIM, columns=DIM, wire="float16",
        ),
        "pool one-hot": instructions(
            pool_rows_kernel, kernels.COPY_WARPS, kernels.COPY_ELEMENTS,
            **FEATURES, row_width=2 * DIM, has_bags=False, has_weights=False, is_masked=False, wire="float32",
        ),
        "pool bags": instructions(
            pool_rows_kernel, kernels.SUM_WARPS, kernels.SUM_ELEMENTS,
            **FEATURES, row_width=2 * DIM, has_bags=True, has_weights=True, is_masked=True, wire="bfloat16",
        ),
        "gradients": instructions(
            add_row_gradients_kernel, kernels.SUM_WARPS, kernels.SUM_ELEMENTS,
            **FEATURES, has_divisors=True, has_weights=True, is_masked=True, wire="float32", is_hot=False,
            max_uses=HOT_USES, unroll=kernels.UNROLL,
        ),
    }  # fmt: skip
    for optimizer, width in WIDTHS.items():
        leaves = 4 if optimizer == "sgd" else 0
        elements = kernels.UPDATE_ELEMENTS // max(1, leaves)
        found[optimizer] = instructions(
            update_rows_kernel, kernels.UPDATE_WARPS, elements,
            optimizer=optimizer, is_nesterov=True, is_clipped=True, by_table=True, num_leaves=leaves,
            tree_levels=max(0, leaves.bit_length() - 1), lane_levels=6, row_width=width + 1, row_dim=DIM,
            num_parameters=NUM_PARAMETERS, wire="float32", is_emulated=False,
        )  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
