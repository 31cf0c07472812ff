# SPDX-License-Identifier: Apache-2.0
"""The shim's own log: lines in logrus' format on standard error, which is containerd's fifo in the bundle."""

import os
import time

_debug = False
_fields = ""


def configure(debug: bool, container_id: str, namespace: str) -> None:
    """Set the verbosity and the fields of every line."""
    global _debug, _fields
    _debug = debug
    _fields = f" id={container_id} namespace={namespace} runtime=io.containerd.orlop.v2"


def debug(message: str) -> None:
    """A line for developers, dropped unless debugging is on."""
    if _debug:
        _write("debug", message)


def info(message: str) -> None:
    """A line about something normal."""
    _write("info", message)


def warning(message: str) -> None:
    """A line about something that an administrator may want to change."""
    _write("warning", message)


def error(message: str) -> None:
    """A line about something that failed."""
    _write("error", message)


def exception(message: str, failure: BaseException) -> None:
    """An error line with where it happened, for errors that nobody foresaw."""
    trace = failure.__traceback__
    places = []
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    _write("error", f"{message}: {type(failure).__name__}: {failure} [{' '.join(places[-6:])}]")


def _write(level: str, message: str) -> None:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = message.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    line = f'time="{moment}" level={level} msg="{text}"{_fields}\n'
    try:
        os.write(2, line.encode(errors="backslashreplace"))
    except OSError:
        return  # the reader of the log is away or slow: the log must never stop the shim
