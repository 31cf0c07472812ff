# SPDX-License-Identifier: Apache-2.0
"""Bytes on disk: blobs named by their digest, ingests named by a number.

    <root>/blobs/sha256/<hex>     mode 0444, never written again
    <root>/ingest/<number>        a write in progress; its size is its offset
    <root>/trash/                 what is to be deleted, moved here so that the name is free at once

Durability: one fdatasync a blob, outside the event loop (`LocalWriter.sync`), before the ingest is renamed to its
blob name. A blob therefore is either whole or absent, also after a power cut; a record whose blob is absent is
dropped at the next start. Names are synced before an image is recorded (`sync_names`). Partial ingests are not
synced: what is left of them is hashed anew when resumed.
"""

import errno
import hashlib
import logging
import os
import threading
from collections.abc import Mapping

from orlop.containerd.core.content import validate_digest
from orlop.containerd.disk import FULL, disk_errors
from orlop.errdefs import DataLossError, FailedPreconditionError, NotFoundError, ResourceExhaustedError

_log = logging.getLogger("containerd.content")
_CHUNK = 1 << 20


class LocalReader:
    """An open blob; implements `orlop.containerd.core.content.Reader`."""

    slow = False
    """Whether `fileno` has to be waited for."""

    def __init__(self, path: str, digest: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise NotFoundError(f"content {digest}: not found") from None
        self._size = os.fstat(self._fd).st_size

    @property
    def size(self) -> int:
        """Bytes in the blob."""
        return self._size

    def fileno(self) -> int:
        """The descriptor of the file."""
        return self._fd

    def read_at(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset`."""
        return os.pread(self._fd, size, offset)

    def read_cached(self, offset: int, size: int) -> bytes | None:
        """Like `read_at`, at once: None where the disk would be waited for (preadv2(2), RWF_NOWAIT)."""
        buffer = bytearray(size)
        try:
            read = os.preadv(self._fd, [buffer], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return None
            raise
        return bytes(memoryview(buffer)[:read])

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class LocalWriter:
    """An open ingest. Not for two threads at once, but any thread may use it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.offset = os.fstat(self._fd).st_size
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._synced = -1

    @property
    def modified(self) -> int:
        """When it was last written, in nanoseconds since the epoch."""
        return os.fstat(self._fd).st_mtime_ns

    @property
    def unhashed(self) -> int:
        """Bytes of an earlier connection that were not read back yet."""
        return self.offset - self._hashed

    def digest(self) -> str:
        """The digest of all bytes; those of an earlier connection are read back first."""
        while self._hashed < self.offset:
            data = os.pread(self._fd, min(_CHUNK, self.offset - self._hashed), self._hashed)
            if not data:
                raise DataLossError(f"ingest {self.path} was cut to {self._hashed} bytes")
            self._hash.update(data)
            self._hashed += len(data)
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes) -> None:
        """Append all of `data`; raises ResourceExhaustedError, with the ingest cut to its old offset."""
        if self._hashed < self.offset:
            self.digest()
        view, at = memoryview(data), self.offset
        try:
            while view:
                written = os.pwrite(self._fd, view, at)
                at += written
                view = view[written:]
        except OSError as error:
            os.ftruncate(self._fd, self.offset)
            if error.errno in FULL:
                raise ResourceExhaustedError(
                    f"content cannot be written at offset {at}: {error.strerror}"
                ) from None
            raise
        self._hash.update(data)
        self._hashed = self.offset = at

    def truncate(self) -> None:
        """Begin again at offset 0."""
        os.ftruncate(self._fd, 0)
        self._hash = hashlib.sha256()
        self._hashed = self.offset = 0

    def sync(self) -> None:
        """Bring the bytes to the disk."""
        self.digest()
        if self._synced != self.offset:
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                if error.errno in FULL:
                    raise ResourceExhaustedError(f"content cannot be synced: {error.strerror}") from None
                raise
            self._synced = self.offset

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class LocalContent:
    """The directories of the store. Its methods are quick and may run in the event loop, but `empty_trash`."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._blobs = os.path.join(root, "blobs", "sha256")
        self._ingests = os.path.join(root, "ingest")
        self._trash = os.path.join(root, "trash")
        for directory in (self._blobs, self._ingests, self._trash):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        os.chmod(root, 0o700)
        self._trash_lock = threading.Lock()
        self._trash_count = 0

    def path(self, digest: str) -> str:
        """Where the blob is or would be."""
        return f"{self._blobs}/{validate_digest(digest).removeprefix('sha256:')}"

    def size(self, digest: str) -> int | None:
        """Bytes in the blob; None when there is none."""
        try:
            return os.lstat(self.path(digest)).st_size
        except FileNotFoundError:
            return None

    def reader(self, digest: str) -> LocalReader:
        """Open a blob; raises NotFoundError."""
        return LocalReader(self.path(digest), digest)

    def writer(self, number: int) -> LocalWriter:
        """Open or create an ingest."""
        return LocalWriter(self._ingest(number))

    def ingest_stat(self, number: int) -> tuple[int, int] | None:
        """Offset and time of the last write of an ingest (nanoseconds); None when it has no file."""
        try:
            stat = os.lstat(self._ingest(number))
        except FileNotFoundError:
            return None
        return stat.st_size, stat.st_mtime_ns

    def commit(self, number: int, writer: LocalWriter, digest: str) -> None:
        """Make the ingest the blob `digest`, or drop it when that blob is there. Closes the writer.

        The writer has been synced and its digest compared.
        """
        if writer.digest() != digest:
            raise FailedPreconditionError(f"unexpected commit digest {writer.digest()}, expected {digest}")
        writer.close()
        blob = self.path(digest)
        if self.size(digest) == writer.offset:
            os.unlink(writer.path)
            return
        os.chmod(writer.path, 0o444)
        os.rename(writer.path, blob)

    def sync_names(self) -> None:
        """Bring the names of all blobs to the disk; blocks on it."""
        with disk_errors("content cannot be synced"):
            fd = os.open(self._blobs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def digests(self) -> dict[str, int]:
        """All blobs with their sizes."""
        with os.scandir(self._blobs) as entries:
            return {f"sha256:{entry.name}": entry.stat(follow_symlinks=False).st_size for entry in entries}

    def sizes(self) -> Mapping[str, int] | None:
        """As `digests`; None where that cannot be known."""
        return self.digests()

    def ingests(self) -> set[int]:
        """The numbers of all ingests."""
        return {int(name) for name in os.listdir(self._ingests) if name.isdigit()}

    def discard_blob(self, digest: str) -> None:
        """Take a blob away; open readers keep it. The bytes are freed by `empty_trash`."""
        self._discard(self.path(digest))

    def discard_ingest(self, number: int) -> None:
        """Take an ingest away."""
        self._discard(self._ingest(number))

    def empty_trash(self) -> None:
        """Free what was discarded; blocks on the disk."""
        with self._trash_lock:
            for name in os.listdir(self._trash):
                try:
                    os.unlink(os.path.join(self._trash, name))
                except OSError as error:
                    _log.warning("discarded content %s is not deleted: %s", name, error)

    def close(self) -> None:
        """Nothing is open."""

    def _discard(self, path: str) -> None:
        self._trash_count += 1
        name = f"{os.path.basename(path)}-{self._trash_count}-{os.getpid()}"
        try:
            os.rename(path, os.path.join(self._trash, name))
        except FileNotFoundError:
            return  # it was never written

    def _ingest(self, number: int) -> str:
        return os.path.join(self._ingests, str(number))
