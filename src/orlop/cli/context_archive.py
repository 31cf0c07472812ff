# SPDX-License-Identifier: Apache-2.0
"""A context as one file: the tar that `context export` writes, and the tar or zip that `context import` reads."""

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from typing import Any

from orlop.cli.errors import ExitError
from orlop.engine.contexts import TLS_FILES

_METADATA = "meta.json"
_SIZE_MAX = 10 << 20  # bytes of an archive's member, Docker's limit
_TLS = "tls/docker/"


def pack(metadata: dict[str, Any], tls: dict[str, bytes]) -> bytes:
    """The tar of a context."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        _add(tar, _METADATA, json.dumps(metadata, separators=(",", ":")).encode())
        for directory in ("tls", "tls/docker") if tls else ("tls",):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o700
            tar.addfile(entry)
        for name, data in tls.items():
            _add(tar, _TLS + name, data, 0o600)
    return output.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size = mode, len(data)
    tar.addfile(entry, io.BytesIO(data))


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Metadata and TLS files of a context. Raises ExitError for what is no such archive."""
    metadata: Any = None
    tls: dict[str, bytes] = {}
    try:
        for name, content in _zipped(data) if data.startswith(b"PK") else _members(data):
            if name == _METADATA:
                metadata = json.loads(content)
            elif name.startswith(_TLS) and name.removeprefix(_TLS) in TLS_FILES:
                tls[name.removeprefix(_TLS)] = content
            else:
                raise ExitError(f"context archive: unexpected member {name}")
    except (tarfile.TarError, zipfile.BadZipFile, ValueError) as error:
        raise ExitError(f"context archive: {error}") from None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("Endpoints"), dict):
        raise ExitError("context archive: expected meta.json with Endpoints")
    return metadata, tls


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    padded = data + bytes(-len(data) % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)  # Docker writes no end
    with tarfile.open(fileobj=io.BytesIO(padded)) as tar:
        for entry in tar:
            if not entry.isfile():
                continue
            file = tar.extractfile(entry)
            if file is None or entry.size > _SIZE_MAX:
                raise ExitError(f"context archive: {entry.name} is too large")
            yield entry.name, file.read()


def _zipped(data: bytes) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            if entry.file_size > _SIZE_MAX:
                raise ExitError(f"context archive: {entry.filename} is too large")
            yield entry.filename, archive.read(entry)
