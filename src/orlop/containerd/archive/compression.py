# SPDX-License-Identifier: Apache-2.0
"""Compressed layers: detected by their first bytes, decompressed and hashed in a thread of their own."""

import hashlib
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import zstandard
from isal import igzip_lib, isal_zlib

from orlop.errdefs import InvalidArgumentError

CHUNK = 1 << 20
_AHEAD = 4  # chunks that may wait for the consumer
_MAX_WINDOW = 1 << 27  # bytes of memory that a zstd frame may ask for, as zstd(1) --long=27

GZIP_MAGIC = b"\x1f\x8b\x08"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

Read = Callable[[int], bytes]


class LayerSource:
    """A layer's bytes, uncompressed, in chunks, and what they were.

    Decompressing and hashing release the interpreter lock, so they run beside the thread that makes files. Memory
    is bounded by a few chunks, whatever the ratio. Use as a context manager, iterate once, then read `size`,
    `digest` and `compressed_digest`.
    """

    def __init__(self, fd: int, hash_compressed: bool = True) -> None:
        """Read the file `fd` from offset 0, or a pipe to its end; the descriptor stays the caller's."""
        self._fd = fd
        self._piped = stat.S_ISFIFO(os.fstat(fd).st_mode)
        self._begun = b""  # what has been read of a pipe to see how it begins
        self._offset = 0
        self._compressed = hashlib.sha256() if hash_compressed else None
        self._plain = hashlib.sha256()
        self._size = 0
        self._same = False  # not compressed: one hash is both
        self._ready: deque[bytes] = deque()  # none of them empty
        self._ended = False
        self._error: BaseException | None = None
        self._stop = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._produce, name="decompress", daemon=True)

    def __enter__(self) -> "LayerSource":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        self._thread.join()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                while not self._ready and not self._ended:
                    self._changed.wait()
                chunk = self._ready.popleft() if self._ready else b""
                self._changed.notify_all()
            if not chunk:
                if self._error is not None:
                    raise self._error
                return
            yield chunk

    @property
    def size(self) -> int:
        """Bytes of the uncompressed layer."""
        return self._size

    @property
    def digest(self) -> str:
        """Digest of the uncompressed layer: its diffID."""
        return f"sha256:{self._plain.hexdigest()}"

    @property
    def compressed_digest(self) -> str:
        """Digest of the bytes of the file."""
        compressed = self._plain if self._same or self._compressed is None else self._compressed
        return f"sha256:{compressed.hexdigest()}"

    def _produce(self) -> None:
        try:
            for chunk in self._decompress():
                self._plain.update(chunk)
                self._size += len(chunk)
                with self._changed:
                    while len(self._ready) >= _AHEAD and not self._stop:
                        self._changed.wait()
                    if self._stop:
                        return
                    self._ready.append(chunk)
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, which raises it
            self._error = error
        finally:
            with self._changed:  # takes no memory: there may be none
                self._ended = True
                self._changed.notify_all()

    def _decompress(self) -> Iterator[bytes]:
        magic = self._peek()
        if magic.startswith(GZIP_MAGIC):
            return _gunzip(self._read)
        if magic == ZSTD_MAGIC:
            return _unzstd(self._read)
        self._same = True
        self._compressed = None
        return iter(lambda: self._read(CHUNK), b"")

    def _peek(self) -> bytes:
        """The first bytes, by which a compression is known."""
        if not self._piped:
            return os.pread(self._fd, 4, 0)
        while len(self._begun) < 4 and (data := os.read(self._fd, 4 - len(self._begun))):
            self._begun += data
        return self._begun

    def _read(self, size: int) -> bytes:
        if self._piped:
            data, self._begun = self._begun or os.read(self._fd, size), b""
        else:
            data = os.pread(self._fd, size, self._offset)
            self._offset += len(data)
        if self._compressed is not None:
            self._compressed.update(data)
        return data


def _gunzip(read: Read) -> Iterator[bytes]:
    """The members of a gzip file, one after the other (pigz, eStargz and others write many)."""
    data = read(CHUNK)
    while data:
        member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        while not member.eof:
            if member.needs_input and not data:
                data = read(CHUNK)
                if not data:
                    raise InvalidArgumentError("invalid layer: unexpected end of the gzip stream")
            try:
                plain = member.decompress(data, CHUNK)
            except igzip_lib.error as error:  # type: ignore[misc]
                raise InvalidArgumentError(f"invalid layer: {error}") from None
            data = b""
            if plain:
                yield plain
        data = member.unused_data or read(CHUNK)
        if data and not data.strip(b"\0"):  # padding after the last member
            return


class _Reader:
    """What zstandard wants to read from."""

    def __init__(self, read: Read) -> None:
        self.read = read


def _unzstd(read: Read) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    source: Any = _Reader(read)  # its stubs ask for a whole file object
    reader = decompressor.stream_reader(source, read_size=CHUNK, read_across_frames=True)
    while True:
        try:
            plain = reader.read(CHUNK)
        except zstandard.ZstdError as error:
            raise InvalidArgumentError(f"invalid layer: {error}") from None
        if not plain:
            return
        yield plain


class Compressor(Protocol):
    """Takes a layer in pieces and gives its compressed bytes in others."""

    def compress(self, data: bytes) -> bytes:
        """What is ready after `data` has come in; may be empty."""
        ...

    def flush(self) -> bytes:
        """The rest."""
        ...


class PlainCompressor:
    """No compression."""

    def compress(self, data: bytes) -> bytes:
        """The data itself."""
        return data

    def flush(self) -> bytes:
        """Nothing."""
        return b""


class GzipCompressor:
    """gzip without a name and a time, so that equal layers have equal digests."""

    def __init__(self) -> None:
        self._object = isal_zlib.compressobj(level=isal_zlib.ISAL_BEST_COMPRESSION, wbits=31)

    def compress(self, data: bytes) -> bytes:
        """What is ready."""
        return self._object.compress(data)

    def flush(self) -> bytes:
        """The rest, with the checksum."""
        return self._object.flush()


class ZstdCompressor:
    """zstd at its default level, one frame."""

    def __init__(self) -> None:
        self._object = zstandard.ZstdCompressor(level=3).compressobj()

    def compress(self, data: bytes) -> bytes:
        """What is ready."""
        return self._object.compress(data)

    def flush(self) -> bytes:
        """The rest."""
        return self._object.flush()
