# SPDX-License-Identifier: Apache-2.0
"""The one network device that the runtime itself brings up: the loopback of a new network namespace."""

import _socket
import fcntl
import struct

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_IFF_RUNNING = 0x40


def raise_loopback() -> None:
    """Set `lo` up in the present network namespace."""
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        fcntl.ioctl(sock.fileno(), _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP | _IFF_RUNNING))
    finally:
        sock.close()
