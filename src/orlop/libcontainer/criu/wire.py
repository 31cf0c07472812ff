# SPDX-License-Identifier: Apache-2.0
"""The messages of CRIU's RPC (images/rpc.proto of CRIU) in protobuf's encoding, those fields that are used here.

Ours by hand: libcontainer does without the protobuf library, whose import takes longer than making a container.
"""

from orlop.errdefs import InternalError

# Types of requests.
DUMP, RESTORE, PRE_DUMP, NOTIFY, FEATURE_CHECK = 1, 2, 4, 6, 9

CGROUP_MODES = {"": 6, "ignore": 0, "soft": 3, "full": 4, "strict": 5}
NETWORK_LOCKS = {"iptables": 1, "nftables": 2, "skip": 3}

_REQUEST = {"type": 1, "opts": 2, "notify_success": 3, "features": 5}
_FEATURES = {"mem_track": 1, "lazy_pages": 2}
_OPTIONS = {
    "images_dir_fd": 1,
    "pid": 2,
    "leave_running": 3,
    "ext_unix_sk": 4,
    "tcp_established": 5,
    "evasive_devices": 6,
    "shell_job": 7,
    "file_locks": 8,
    "log_level": 9,
    "log_file": 10,
    "ps": 11,
    "notify_scripts": 12,
    "root": 13,
    "parent_img": 14,
    "track_mem": 15,
    "auto_dedup": 16,
    "work_dir_fd": 17,
    "link_remap": 18,
    "ext_mnt": 23,
    "manage_cgroups": 24,
    "cg_root": 25,
    "rst_sibling": 26,
    "inherit_fd": 27,
    "manage_cgroups_mode": 34,
    "external": 37,
    "empty_ns": 38,
    "join_ns": 39,
    "freeze_cgroup": 44,
    "tcp_skip_in_flight": 46,
    "lazy_pages": 48,
    "status_fd": 49,
    "orphan_pts_master": 50,
    "config_file": 51,
    "tcp_close": 52,
    "lsm_profile": 53,
    "lsm_mount_context": 63,
    "network_lock": 64,
}

# A value of an option: scalars as they are; an inner message as the tuple of its fields 1 and 2 (ps, ext_mnt,
# cg_root, inherit_fd, join_ns have no others that are used here); a list for a repeated field.
Scalar = bool | int | str
Pair = tuple[Scalar, Scalar]
Value = Scalar | Pair | list[str] | list[Pair]


def request(
    kind: int,
    options: dict[str, Value] | None = None,
    *,
    notify_success: bool = False,
    features: tuple[str, ...] = (),
) -> bytes:
    """A criu_req."""
    raw = _field(_REQUEST["type"], kind)
    if options is not None:
        inner = b"".join(_option(_OPTIONS[name], value) for name, value in options.items())
        raw += _bytes(_REQUEST["opts"], inner)
    if notify_success:
        raw += _field(_REQUEST["notify_success"], True)
    if features:
        raw += _bytes(_REQUEST["features"], b"".join(_field(_FEATURES[name], True) for name in features))
    return raw


class Response:
    """A criu_resp: what kind of request it answers, and what of it is used here."""

    __slots__ = ("errno", "features", "kind", "message", "pid", "script", "success")

    def __init__(self, raw: bytes) -> None:
        fields = _parse(raw)
        self.kind = _number(fields, 1)
        self.success = bool(_number(fields, 2))
        self.errno = _number(fields, 7)
        self.message = _text(fields, 9)
        notify = _parse(_raw(fields, 5))
        self.script = _text(notify, 1)
        self.pid = _number(notify, 2) or _number(_parse(_raw(fields, 4)), 1)
        features = _parse(_raw(fields, 8))
        self.features = [name for name, field in _FEATURES.items() if _number(features, field)]


def _option(number: int, value: Value) -> bytes:
    if isinstance(value, (bool, int, str)):
        return _field(number, value)
    if isinstance(value, tuple):
        return _bytes(number, b"".join(_field(index, part) for index, part in enumerate(value, 1)))
    return b"".join(_option(number, item) for item in value)


def _field(number: int, value: Scalar) -> bytes:
    if isinstance(value, str):
        return _bytes(number, value.encode("utf-8", "surrogateescape"))
    return _varint(number << 3) + _varint(int(value) & (1 << 64) - 1)


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    raw = bytearray()
    while value > 0x7F:
        raw.append(value & 0x7F | 0x80)
        value >>= 7
    raw.append(value)
    return bytes(raw)


def _parse(raw: bytes) -> dict[int, int | bytes]:
    """Field numbers to their last value: numbers, and bytes of texts and inner messages."""
    found: dict[int, int | bytes] = {}
    index = 0
    while index < len(raw):
        tag, index = _read_varint(raw, index)
        kind = tag & 7
        if kind == 0:
            found[tag >> 3], index = _read_varint(raw, index)
        elif kind == 2:
            length, index = _read_varint(raw, index)
            if index + length > len(raw):
                raise InternalError("criu: a message that is cut off")
            found[tag >> 3] = raw[index : index + length]
            index += length
        elif kind in (1, 5):
            index += 8 if kind == 1 else 4
        else:
            raise InternalError(f"criu: a message with a field of type {kind}")
    return found


def _read_varint(raw: bytes, index: int) -> tuple[int, int]:
    value = shift = 0
    while index < len(raw) and shift < 70:
        byte = raw[index]
        index += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index
        shift += 7
    raise InternalError("criu: a message that is cut off")


def _number(fields: dict[int, int | bytes], number: int) -> int:
    value = fields.get(number, 0)
    if not isinstance(value, int):
        return 0
    return value - (1 << 64) if value >> 63 else value


def _raw(fields: dict[int, int | bytes], number: int) -> bytes:
    value = fields.get(number, b"")
    return value if isinstance(value, bytes) else b""


def _text(fields: dict[int, int | bytes], number: int) -> str:
    return _raw(fields, number).decode("utf-8", "replace")
