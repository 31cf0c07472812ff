# SPDX-License-Identifier: Apache-2.0
"""What a process that goes on from a file sets right before the command runs: all that is its own."""

import atexit
import ctypes
import io
import os
import sys
from collections.abc import Callable

from orlop.unix import unexec
from orlop.unix._libc import libc
from orlop.unix.unexec.code import Input

_signal = sys.modules["_signal"]  # built in; `signal` would make an enumeration of every number

_environ = ctypes.c_void_p.in_dll(libc, "environ")
_sigaction = libc.sigaction
_SIG_IGN = 1


def inputs() -> list[Input]:
    """The files of this process that may change: our modules, the interpreter, the libraries. Raises OSError."""
    files = {sys.executable}
    with open("/proc/self/maps", encoding="utf-8") as maps:
        files.update(line.split(maxsplit=5)[5].strip() for line in maps if "/" in line and " r-xp " in line)
    for name, module in sys.modules.items():
        source = getattr(module, "__file__", None)
        if source and name.partition(".")[0] == "orlop":
            files.add(source)
    found = []
    for file in sorted(file for file in files if not file.startswith("/memfd:")):
        status = os.stat(file)
        found.append(Input(file, status.st_size, status.st_mtime_ns))
    return found


def wake(stack: int, run: Callable[[], object]) -> None:
    """Go on as a process that was started with this stack, and end with the command's exit code; never returns."""
    arguments, environment, address = _strings(stack)
    _environ.value = address
    unexec._captured = True
    sys.argv[:] = [os.fsdecode(argument) for argument in arguments]
    variables = os.environ._data  # type: ignore[attr-defined]
    variables.clear()
    variables.update(environment)
    _signals()
    _streams()
    if "random" in sys.modules:
        sys.modules["random"].seed()
    os._exit(_run(run))


def _strings(stack: int) -> tuple[list[bytes], dict[bytes, bytes], int]:
    """Arguments, environment and where the latter begins (System V ABI: argc, argv, null, envp, null)."""
    count = ctypes.c_ulong.from_address(stack).value
    pointers = (ctypes.c_char_p * (count + 1)).from_address(stack + 8)
    arguments = [value for value in pointers[:count] if value is not None]
    begin = at = stack + 8 * (count + 2)
    environment: dict[bytes, bytes] = {}
    while (text := ctypes.c_char_p.from_address(at).value) is not None:
        name, equals, value = text.partition(b"=")
        if equals:
            environment.setdefault(name, value)
        at += 8
    return arguments, environment, begin


def _signals() -> None:
    """Python's own handling of signals, which ends with an exec, and what the caller has had ignored."""
    disposition = (ctypes.c_ulong * 32)()  # struct sigaction begins with the handler
    ignored = {
        number
        for number in range(1, _signal.NSIG)
        if _sigaction(number, None, disposition) == 0 and disposition[0] == _SIG_IGN
    }
    for number in ignored:
        _signal.signal(number, _signal.SIG_IGN)
    if _signal.SIGINT not in ignored:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
    _signal.signal(_signal.SIGXFSZ, _signal.SIG_IGN)


def _streams() -> None:
    """Standard streams as the interpreter makes them, in UTF-8; None for one that is closed."""
    sys.stdin = sys.__stdin__ = _stream(0, "r", "surrogateescape")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _stream(1, "w", "surrogateescape")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2, "w", "backslashreplace")  # type: ignore[misc]


def _stream(fd: int, mode: str, errors: str) -> io.TextIOWrapper | None:
    try:
        raw = io.FileIO(fd, mode, closefd=False)
    except OSError:
        return None
    terminal = raw.isatty()
    buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    stream = io.TextIOWrapper(
        buffer,
        encoding="utf-8",
        errors=errors,
        line_buffering=terminal or fd == 2,  # as Python has it
    )
    stream.mode = mode  # type: ignore[misc]
    return stream


def _run(function: Callable[[], object]) -> int:
    """The exit code that an interpreter would end with."""
    try:
        status = _status(function())
    except SystemExit as end:
        status = _status(end.code)
    except KeyboardInterrupt:
        _flush()
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        os.kill(os.getpid(), _signal.SIGINT)
        status = 130
    except BaseException:  # noqa: BLE001 # nobody is above
        sys.excepthook(*sys.exc_info())
        status = 1
    atexit._run_exitfuncs()
    return status if _flush() else status or 120


def _status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    sys.stderr.write(f"{code}\n")
    return 1


def _flush() -> bool:
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:
        return False
    return True
