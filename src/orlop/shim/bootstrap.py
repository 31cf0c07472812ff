# SPDX-License-Identifier: Apache-2.0
"""What containerd writes to `start` and what it reads back, and where shims listen.

`start` is over in the time that `import socket, hashlib, typing` takes: their compiled cores do here.
"""

import _socket
import os

from orlop.errdefs import InvalidArgumentError, UnavailableError

SOCKET_DIR = "/run/containerd/s"
_GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")
_LIMIT = 106
_MAX_PARAMS = 10 << 20
PROTOCOL_VERSION = 3


class Start:
    """How a shim is to be started. `modern` is whether containerd wrote BootstrapParams (2.3 and later)."""

    __slots__ = ("address", "debug", "debug_socket", "id", "modern", "namespace", "socket_dir", "ttrpc_address")

    def __init__(
        self,
        namespace: str,
        id: str,
        address: str,
        ttrpc_address: str,
        socket_dir: str,
        debug: bool,
        modern: bool,
        debug_socket: str = "",
    ) -> None:
        self.namespace = namespace
        self.id = id
        self.address = address
        self.ttrpc_address = ttrpc_address
        self.socket_dir = socket_dir
        self.debug = debug
        self.modern = modern
        self.debug_socket = debug_socket  # chosen by flag; only with `debug`


def read_params(raw: bytes, namespace: str, container_id: str, address: str, debug: bool) -> Start:
    """Put together what the flags say and what came on standard input.

    Older containerds write nothing, or the runtime options as an Any: the flags decide then. Raises
    InvalidArgumentError when the parameters speak of another container.
    """
    ttrpc = os.environ.get("TTRPC_ADDRESS", "") or (f"{address}.ttrpc" if address else "")
    flags = Start(namespace, container_id, address, ttrpc, SOCKET_DIR, debug, False)
    if not raw:
        return flags
    if len(raw) > _MAX_PARAMS:
        raise InvalidArgumentError(f"bootstrap parameters are longer than {_MAX_PARAMS} bytes")
    # Protobuf takes longer to load than `start` takes: containerds before 2.3 do without.
    from google.protobuf.message import DecodeError

    from orlop.api.bootstrap_pb2 import BootstrapParams

    try:
        params = BootstrapParams.FromString(raw)
    except DecodeError:
        return flags  # an Any, whose second field is bytes, not a string
    if "." in params.instance_id and params.namespace != namespace:
        return flags  # an Any of options: its first field is a type URL
    if params.instance_id != container_id or params.namespace != namespace:
        raise InvalidArgumentError(
            f"bootstrap parameters are of {params.namespace}/{params.instance_id}, not {namespace}/{container_id}"
        )
    return Start(
        namespace,
        container_id,
        params.containerd_grpc_address or address,
        params.containerd_ttrpc_address or ttrpc,
        params.socket_dir or SOCKET_DIR,
        debug or params.log_level < 0,
        True,
    )


def answer(start: Start, address: str) -> bytes:
    """What `start` prints: BootstrapResult for a containerd that wrote parameters, else the bare address.

    A bare address means version 2, which every containerd speaks.
    """
    if not start.modern:
        return address.encode()
    from orlop.api.bootstrap_pb2 import BootstrapResult

    return BootstrapResult(version=PROTOCOL_VERSION, address=address, protocol="ttrpc").SerializeToString()


def group_of(bundle: str, container_id: str) -> str:
    """The id that a container's shim is named after: containers of one group share a shim.

    Raises InvalidArgumentError for a config.json that cannot be read.
    """
    path = f"{bundle}/config.json"
    try:
        with open(path, "rb", buffering=0) as file:
            raw = file.read()
    except OSError as error:
        raise InvalidArgumentError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if not any(name.encode() in raw for name in _GROUPS):
        return container_id  # most are of no group, and need not be parsed
    from orlop.shim.bundle import annotations

    found = annotations(bundle)
    return next((found[name] for name in _GROUPS if found.get(name)), container_id)


def socket_address(start: Start, group: str) -> str:
    """The path of a shim's socket. Raises InvalidArgumentError when it would be too long for a socket."""
    return _hashed(start, group)


def debug_address(start: Start, group: str) -> str:
    """The path of a shim's debug socket, if it has one. Raises InvalidArgumentError as `socket_address` does."""
    return _hashed(start, group, "debug")


def _hashed(start: Start, *parts: str) -> str:
    name = _sha256(os.path.join(start.address, start.namespace, *parts).encode())
    path = f"{start.socket_dir}/{name}"
    if len(path) > _LIMIT:
        raise InvalidArgumentError(f"socket path {path} is longer than {_LIMIT} bytes")
    return path


def _sha256(data: bytes) -> str:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]
    except ImportError:  # it has another name from Python 3.12 on
        from hashlib import sha256
    return str(sha256(data).hexdigest())


def bind(path: str) -> int | None:
    """Listen on `path`: the descriptor, or None when a shim serves there already. Raises UnavailableError."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        old = os.umask(0o177)
        try:
            try:
                sock.bind(path)
            except OSError:
                if is_served(path):
                    sock.close()
                    return None
                os.unlink(path)  # a shim that was killed leaves its socket behind
                sock.bind(path)
        finally:
            os.umask(old)
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise UnavailableError(f"listen on {path}: {(error.strerror or str(error)).lower()}") from None
    return sock.detach()


def is_served(path: str) -> bool:
    """Whether somebody accepts connections there."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except OSError:
        return False
    finally:
        sock.close()
    return True
