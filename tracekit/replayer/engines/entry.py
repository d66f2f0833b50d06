"""Makes machine code of a compiled function and all that it calls: one C function of a table of addresses.

The code needs nothing but the C library, so that a later process runs it without numba. Imported by `jit` only, and only
to compile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array
from numba.np.numpy_support import from_dtype

from tracekit.replayer.engines.machine import MachineCode, target

__all__ = ["compiled"]

_WORD = ir.IntType(64)


def compiled(function: Callable[..., Any], arguments: tuple[Any, ...], name: str) -> MachineCode:
    """The machine code of `function` for arguments like these: arrays, named tuples of arrays, and integers.

    It defines `name`, by numba's convention: a function of the addresses of a word for the result and of one for
    an exception, and of the table of `jit`.
    """
    unpacked = _unpacker(_type_of(arguments))

    @njit(_nrt=False)
    def entry(table: int) -> Any:
        return function(*unpacked(table))

    entry.compile((types.int64,))
    (made,) = entry.overloads.values()
    module = llvm.parse_assembly(made.library.get_llvm_str())
    for defined in module.functions:
        if defined.name == made.fndesc.llvm_func_name:
            defined.name = name
        elif not defined.is_declaration:  # such as what makes the function callable from Python
            defined.linkage = "internal"
    machine, passes = target(), llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    called = [each.name for each in module.functions if each.is_declaration]
    return MachineCode(machine.emit_object(module), [each for each in called if not each.startswith("llvm.")])


def _type_of(value: Any) -> types.Type:
    """The type of a value by its shape alone: arrays that must not be written to are not told apart."""
    if isinstance(value, np.ndarray):
        return types.Array(from_dtype(value.dtype), value.ndim, "C")
    if isinstance(value, tuple):
        members = [_type_of(member) for member in value]
        return types.NamedTuple(members, type(value)) if hasattr(value, "_fields") else types.Tuple(members)
    return types.int64


def _unpacker(kind: types.Type) -> Any:
    """A function that makes values of a type from the table at an address."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], _WORD.as_pointer())
        taken = 0

        def word() -> Any:
            nonlocal taken
            taken += 1
            return builder.load(builder.gep(place, [_WORD(taken - 1)]))

        def value(of: types.Type) -> Any:
            if isinstance(of, types.BaseTuple):
                return context.make_tuple(builder, of, [value(member) for member in of])
            if not isinstance(of, types.Array):
                return word()
            array = context.make_array(of)(context, builder)
            data, shape = builder.inttoptr(word(), array.data.type), [word() for _ in range(of.ndim)]
            step = _WORD(of.dtype.bitwidth // 8)
            steps = [step]
            for length in shape[:0:-1]:
                steps.insert(0, builder.mul(steps[0], length))
            populate_array(array, data=data, shape=shape, strides=steps, itemsize=step, meminfo=None)
            return array._getvalue()

        return value(kind)

    @intrinsic
    def unpacked(typing_context: Any, table: Any) -> Any:
        return kind(types.int64), code

    return unpacked
