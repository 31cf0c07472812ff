# SPDX-License-Identifier: Apache-2.0
"""TLS towards a daemon: a plain socket for the client, whose bytes two threads encrypt and decrypt.

A hijacked connection is handed to code that polls and half-closes a socket, which no TLS socket bears.
"""

import os
import socket
import ssl
import threading
from typing import NamedTuple

from orlop.tls import client_context

_CHUNK = 64 << 10


class Tls(NamedTuple):
    """Files in PEM, empty for none; `verify`: whether the daemon's certificate has to be in order."""

    ca: str
    certificate: str
    key: str
    verify: bool

    @classmethod
    def below(cls, directory: str, *, verify: bool) -> "Tls":
        """`ca.pem`, `cert.pem` and `key.pem` of a directory, those that are there."""
        paths = (os.path.join(directory, name) for name in ("ca.pem", "cert.pem", "key.pem"))
        ca, certificate, key = (path if os.path.exists(path) else "" for path in paths)
        return cls(ca, certificate, key, verify)


def encrypted(network: socket.socket, host: str, tls: Tls) -> socket.socket:
    """A plain socket for a connected one; raises OSError (ssl.SSLError too) where the two do not agree."""
    try:
        context = client_context(tls.ca or None)
        if not tls.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key or None)
        session = _Session(network, context, host)
        session.handshake()
    except OSError:
        network.close()
        raise
    ours, theirs = socket.socketpair()
    for work in (session.send_from, session.receive_into):
        threading.Thread(target=work, args=(theirs,), daemon=True).start()
    return ours


class _Session:
    def __init__(self, network: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._network = network
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)
        self._state, self._sending = threading.Lock(), threading.Lock()

    def handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                self._flush()
                return
            except ssl.SSLWantReadError:
                self._flush()
                self._take()

    def send_from(self, plain: socket.socket) -> None:
        """Encrypt what the client writes, until it closes its half."""
        try:
            while data := plain.recv(_CHUNK):
                with self._state:
                    self._tls.write(data)
                self._flush()
            with self._state:
                self._tls.unwrap()  # says that nothing more comes; the other half stays open
        except ssl.SSLWantReadError:
            self._flush()
        except OSError:
            pass  # the daemon has gone: the client reads the end of the other half

    def receive_into(self, plain: socket.socket) -> None:
        """Decrypt what the daemon sends, until it closes."""
        try:
            while self._hand_over(plain):
                self._take()
                self._flush()
        except OSError:
            pass  # either side has gone, and the other one is told by the end of its socket
        finally:
            plain.close()
            self._network.close()

    def _hand_over(self, plain: socket.socket) -> bool:
        """Give the client all that is decrypted; False at the end."""
        while True:
            try:
                with self._state:
                    data = self._tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                return True
            if not data:
                return False
            plain.sendall(data)

    def _take(self) -> None:
        data = self._network.recv(_CHUNK)
        with self._state:
            if data:
                self._in.write(data)
            else:
                self._in.write_eof()

    def _flush(self) -> None:
        with self._sending:
            with self._state:
                data = self._out.read()
            self._network.sendall(data)
