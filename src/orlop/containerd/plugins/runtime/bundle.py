# SPDX-License-Identifier: Apache-2.0
"""The bundle: the directory of a task, by which the daemon finds its shim again after a restart.

    config.json        the OCI spec, as the client gave it
    rootfs/            where the shim mounts the root file system
    work               a symbolic link to the task's kept directory
    log                a fifo: what the shim has to say, read by the daemon
    shim-binary-path   the shim's program: written before the shim starts, so that a crash leaves a known mess
    bootstrap.json     how to reach the shim: written once it runs
    sandbox            the sandbox whose shim it is, of a task that is in one

No file is synced: bundles live on /run and a machine that loses its power has no shims to find.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from typing import NamedTuple

from orlop.containerd.core.namespaces import validate_identifier
from orlop.containerd.failpoints import failpoint
from orlop.errdefs import AlreadyExistsError, DataLossError, InternalError, NotImplementedByUsError
from orlop.unix.mount import MNT_DETACH, UMOUNT_NOFOLLOW, umount2

TASK_DIRECTORY = "io.containerd.runtime.v2.task"
SANDBOX_DIRECTORY = "io.containerd.sandbox.controller.v1.shim"


class Bootstrap(NamedTuple):
    """How to reach a shim."""

    version: int  # of the Task API: 2 or 3
    address: str  # unix:///path
    protocol: str = "ttrpc"


class Bundle(NamedTuple):
    """The directory of one task; `work` is its counterpart below the daemon's root."""

    namespace: str
    id: str
    path: str
    work: str

    def file(self, name: str) -> str:
        """The path of a file of the bundle."""
        return os.path.join(self.path, name)

    def create(self, spec: bytes) -> None:
        """Make the directory and what the shim expects in it. On failure nothing is left.

        Raises AlreadyExistsError.
        """
        validate_identifier(self.id, "task id")
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            raise AlreadyExistsError(f"task {self.id}: bundle {self.path} exists") from None
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self.path), 0o711, exist_ok=True)
            os.mkdir(self.path, 0o700)
        failpoint("task.create.after_directory")
        try:
            self._fill(spec)
        except BaseException:
            self.remove()
            raise

    def _fill(self, spec: bytes) -> None:
        os.symlink(self.work, self.file("work"))
        try:
            os.mkdir(self.work, 0o711)
        except FileNotFoundError:
            os.makedirs(self.work, 0o711)
        except FileExistsError:  # left by a task whose bundle went with a reboot
            shutil.rmtree(self.work)
            os.mkdir(self.work, 0o711)
        os.mkdir(self.file("rootfs"), 0o711)
        os.mkfifo(self.file("log"), 0o700)
        if spec:
            _write(self.file("config.json"), spec, 0o600)
        group = remapped_group(spec)
        if group:
            # The root user of the container's user namespace looks rootfs up through this directory.
            os.chown(self.path, -1, group)
            os.chmod(self.path, 0o710)
            state = os.path.dirname(os.path.dirname(os.path.dirname(self.path)))
            os.chmod(state, os.stat(state).st_mode & 0o777 | 0o011)

    def open_log(self) -> int:
        """The log fifo, for reading without waiting. Open for writing too, it never comes to its end.

        Raises InternalError.
        """
        try:
            return os.open(self.file("log"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            os.mkfifo(self.file("log"), 0o700)
            return os.open(self.file("log"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise InternalError(f"open the log fifo of {self.id}: {error.strerror}") from None

    def write_shim(self, program: str) -> None:
        """Note the shim's program."""
        _write(self.file("shim-binary-path"), program.encode(), 0o600)

    def read_shim(self) -> str | None:
        """The shim's program, if it has been noted."""
        return _read(self.file("shim-binary-path"))

    def write_sandbox(self, id: str) -> None:
        """Note that the shim is a sandbox's, and not the task's to end."""
        _write(self.file("sandbox"), id.encode(), 0o600)

    def read_sandbox(self) -> str:
        """The sandbox whose shim it is; empty for a shim of the task's own."""
        return _read(self.file("sandbox")) or ""

    def write_bootstrap(self, bootstrap: Bootstrap) -> None:
        """Note how to reach the shim."""
        text = json.dumps(bootstrap._asdict(), separators=(",", ":"))
        temporary = self.file(".bootstrap.json")
        _write(temporary, text.encode(), 0o644)
        os.rename(temporary, self.file("bootstrap.json"))

    def read_bootstrap(self) -> Bootstrap | None:
        """How to reach the shim, if it has been noted; a file `address` is what shims before 1.7 left.

        Raises DataLossError, NotImplementedByUsError (see `parse_bootstrap`).
        """
        text = _read(self.file("bootstrap.json"))
        if text is not None:
            return parse_bootstrap(text.encode())
        address = _read(self.file("address"))
        return Bootstrap(2, address.strip()) if address else None

    def remove(self) -> None:
        """Unmount the root file system and remove the directories. What is gone already is no error.

        Raises InternalError when something in the bundle is still mounted: nothing behind a mount is removed.
        """
        rootfs = self.file("rootfs")
        try:
            os.rmdir(rootfs)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise InternalError(f"remove {rootfs}: {error.strerror}") from None
            unmount_all(rootfs)
            try:
                os.rmdir(rootfs)
            except OSError as again:
                raise InternalError(f"remove {rootfs}: {again.strerror}") from None
        for path in (self.path, self.work):
            _remove_tree(path)


def bundle_at(state: str, root: str, namespace: str, id: str, directory: str = TASK_DIRECTORY) -> Bundle:
    """The bundle of a task, or of what else has a shim in a `directory` of its own, existing or not."""
    return Bundle(
        namespace,
        id,
        os.path.join(state, directory, namespace, id),
        os.path.join(root, directory, namespace, id),
    )


def parse_bootstrap(answer: bytes) -> Bootstrap:
    """Understand what a shim's `start` printed: a BootstrapResult, JSON, or a bare address.

    Raises DataLossError for anything else, NotImplementedByUsError for a version or protocol that is not spoken.
    """
    text = answer.strip()
    if text.startswith(b"{"):
        try:
            document = json.loads(text)
            made = Bootstrap(int(document["version"]), document["address"], document.get("protocol") or "ttrpc")
        except (ValueError, KeyError, TypeError) as error:
            raise DataLossError(f"the shim's answer is malformed: {error}") from None
    elif text.startswith((b"unix:", b"/")):
        made = Bootstrap(2, text.decode())
    else:
        made = _parse_protobuf(answer)
    if made.version not in (2, 3):
        raise NotImplementedByUsError(f"unsupported shim version ({made.version})")
    if made.protocol.lower() != "ttrpc":
        raise NotImplementedByUsError(f"unsupported shim protocol {made.protocol!r}")
    return made


def _parse_protobuf(answer: bytes) -> Bootstrap:
    from google.protobuf.message import DecodeError

    from orlop.api.bootstrap_pb2 import BootstrapResult

    try:
        result = BootstrapResult.FromString(answer)
    except DecodeError:
        raise DataLossError(f"the shim's answer is malformed: {answer[:200]!r}") from None
    if not result.address:
        raise DataLossError(f"the shim's answer has no address: {answer[:200]!r}")
    return Bootstrap(result.version, result.address, result.protocol or "ttrpc")


def remapped_group(spec: bytes) -> int:
    """The host's id of group 0 of the container, 0 when it is not mapped; a spec that is no JSON maps nothing."""
    if b'"gidMappings"' not in spec:
        return 0
    try:
        mappings = json.loads(spec)["linux"]["gidMappings"] or []
        return next((int(each["hostID"]) for each in mappings if each.get("containerID", 0) == 0), 0)
    except (ValueError, KeyError, TypeError):
        return 0


def unmount_all(path: str) -> None:
    """Unmount everything at and below `path`, the last one mounted first. Raises InternalError."""
    with open("/proc/self/mountinfo", "rb") as file:
        points = [_unescape(line.split(b" ", 5)[4]) for line in file]
    prefix = os.path.realpath(path)
    for point in reversed(points):
        if point == prefix or point.startswith(prefix + "/"):
            try:
                umount2(point, MNT_DETACH | UMOUNT_NOFOLLOW)
            except OSError as error:
                if error.errno != errno.EINVAL:  # EINVAL: it is gone already, with the one it was shared with
                    raise InternalError(f"unmount {point}: {error.strerror}") from None


def _unescape(field: bytes) -> str:
    parts = field.split(b"\\")
    plain = parts[0] + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in parts[1:])
    return os.fsdecode(plain)


def _remove_tree(path: str) -> None:
    """Rename out of the way first, so that a crash in the middle leaves nothing that looks like a bundle."""
    hidden = os.path.join(os.path.dirname(path), "." + os.path.basename(path))
    try:
        os.rename(path, hidden)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise InternalError(f"remove {path}: {error.strerror}") from None
        shutil.rmtree(hidden)
        os.rename(path, hidden)
    failpoint("task.delete.after_hide")
    shutil.rmtree(hidden)


def remove_hidden(directory: str) -> None:
    """Finish the removals that a crash interrupted in a directory of bundles or of their work directories."""
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)


def _write(path: str, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None
