# SPDX-License-Identifier: Apache-2.0
"""A daemon that does only what the supervisor can see: `stub_daemon.py NAME DIRECTORY`.

It notes its start in DIRECTORY/journal, says READY=1, and answers connections on an activated socket with its name
and pid. A file DIRECTORY/NAME.fail makes it end at once with exit status 7; with DIRECTORY/NAME.slow it asks, when
it is told to end, for the time that the file names (seconds), takes it, and notes its end.
"""

import os
import signal
import socket
import sys
import time


def end_slowly(path: str) -> None:
    """End after the time that the file names, having asked for more."""
    with open(path, encoding="ascii") as file:
        seconds = float(file.read())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={600 * 10**6}".encode(), os.environ["NOTIFY_SOCKET"])
    time.sleep(seconds)
    with open(os.path.join(os.path.dirname(path), "journal"), "a", encoding="ascii") as journal:
        journal.write("ended\n")
    os._exit(0)


def main() -> None:
    """Serve until a signal ends it."""
    name, directory = sys.argv[1:3]
    with open(os.path.join(directory, "journal"), "a", encoding="ascii") as journal:
        journal.write(f"{name}\n")
    if os.path.exists(os.path.join(directory, f"{name}.fail")):
        sys.exit(7)
    listener = None
    if os.environ.get("LISTEN_FDS") == "1" and os.environ.get("LISTEN_PID") == str(os.getpid()):
        listener = socket.socket(fileno=3)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"STATUS=serving\nREADY=1", os.environ["NOTIFY_SOCKET"])
    slow = os.path.join(directory, f"{name}.slow")
    if os.path.exists(slow):
        signal.signal(signal.SIGTERM, lambda *_: end_slowly(slow))
    while listener is not None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(f"{name} {os.getpid()}\n".encode())
    signal.pause()


if __name__ == "__main__":
    main()
