# SPDX-License-Identifier: Apache-2.0
"""Keeps out what the shim's libraries import and the shim never uses: a third of the CPU time of its start."""

import sys


def leave_out() -> None:
    """Call it before protobuf and msgspec are imported; what is there already stays.

    msgspec prefers `typing_extensions` (which imports `inspect`) to `typing`, and takes either. protobuf imports
    its implementation in pure Python, with its parsers of text, even where the compiled one serves.
    """
    sys.modules.setdefault("typing_extensions", None)  # type: ignore[arg-type]
    from google.protobuf.internal import api_implementation

    if api_implementation.Type() == "upb":
        name = "google.protobuf.internal.python_message"
        sys.modules.setdefault(name, type(sys)(name))
