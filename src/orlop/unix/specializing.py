# SPDX-License-Identifier: Apache-2.0
"""Keeps the interpreter from rewriting code that runs for the first times, because that parts shared memory.

CPython 3.11 counts the calls of each code object upwards from -8 in `co_warmup`, and specializes its instructions
when the count has come to 0 (Include/cpython/code.h, _PyCode_Warmup in Include/internal/pycore_code.h). A count
that is 0 from the start means code that is never counted and never rewritten.
"""

import ctypes
import gc
import sys
from types import CodeType, FunctionType

_OFFSET = 52  # of co_warmup, on 64-bit machines
_INITIAL = -8


def leave_unspecialized(but: tuple[str, ...] = ()) -> None:
    """Let code that has not been specialized by now stay as it is, but for that of modules whose names begin so.

    Nothing happens in other interpreters.
    """
    if sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11) or not _is_there():
        return
    for function in gc.get_objects():
        if type(function) is FunctionType and not str(function.__module__).startswith(but):
            _leave(function.__code__)


def _is_there() -> bool:
    """Whether the count is where it is supposed to be: it moves by one with a call."""

    def probe() -> None:
        return

    code = probe.__code__.replace()  # a new object, with its own count
    count = ctypes.c_int16.from_address(id(code) + _OFFSET)
    before = count.value
    FunctionType(code, {})()
    return before == _INITIAL and count.value == _INITIAL + 1


def _leave(code: CodeType) -> None:
    count = ctypes.c_int16.from_address(id(code) + _OFFSET)
    if _INITIAL <= count.value < 0:
        count.value = 0
    for constant in code.co_consts:
        if type(constant) is CodeType:
            _leave(constant)
