# SPDX-License-Identifier: Apache-2.0
"""A container's seccomp profile as a program and flags for seccomp(2), compiled once and kept."""

import os
import stat

from orlop.codec import encode
from orlop.errdefs import InvalidArgumentError
from orlop.oci.runtime import Seccomp

_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # the process has one thread when the filter is loaded
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
_NEW_LISTENER = 8
_SPEC_ALLOW = 4

_CACHE_DIRECTORY = "/run/orlop/seccomp"
_FORMAT = b"1"
"""To be raised when the compiler changes: part of the name of a kept program."""
_MAX_PROGRAM = 4096 * 8

_compiled: dict[bytes, bytes] = {}


def compile(profile: Seccomp, cache_directory: str = _CACHE_DIRECTORY) -> bytes:
    """The filter as an array of struct sock_filter for seccomp(2).

    Kept in the process (children of a warm zygote inherit it) and on disk; a kept file counts only when it and its
    directory belong to this user and nobody else may write there. Raises InvalidArgumentError for the profile.
    """
    key = encode(profile)
    program = _compiled.get(key)
    if program is None:
        path = f"{cache_directory}/{_digest(key)}"
        program = _read_kept(path)
        if program is None:
            from orlop.libcontainer.seccomp_program import compile_program

            program = compile_program(profile)
            _keep(path, program)
        _compiled[key] = program
    return program


def filter_flags(profile: Seccomp) -> int:
    """The flags for seccomp(2); without any in the profile speculative store bypass stays allowed, as with runc.

    NEW_LISTENER is set where an action is SCMP_ACT_NOTIFY. Raises InvalidArgumentError for an unknown flag.
    """
    flags = 0 if profile.flags else _SPEC_ALLOW
    for name in profile.flags:
        if name not in _FLAGS:
            raise InvalidArgumentError(f"seccomp: flag {name!r} is not known")
        flags |= _FLAGS[name]
    if needs_listener(profile):
        flags |= _NEW_LISTENER
    return flags


def needs_listener(profile: Seccomp) -> bool:
    """Whether loading the filter gives a notification descriptor for the profile's listener."""
    return any(entry.action == "SCMP_ACT_NOTIFY" for entry in profile.syscalls)


def _digest(key: bytes) -> str:
    import hashlib

    return hashlib.sha256(_FORMAT + os.uname().machine.encode() + key).hexdigest()


def _ours(fd: int, kind: int) -> bool:
    found = os.fstat(fd)
    return stat.S_IFMT(found.st_mode) == kind and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _read_kept(path: str) -> bytes | None:
    """A program from an earlier run; None where there is none that can be trusted."""
    try:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not _ours(directory, stat.S_IFDIR):
            return None
        name = os.path.basename(path)
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return None
    finally:
        os.close(directory)
    try:
        if not _ours(fd, stat.S_IFREG):
            return None
        program = os.read(fd, _MAX_PROGRAM + 1)
    finally:
        os.close(fd)
    return program if program and len(program) % 8 == 0 and len(program) <= _MAX_PROGRAM else None


def _keep(path: str, program: bytes) -> None:
    """Keep a program for later runs. The cache only saves time: where it cannot be written nothing is lost."""
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        with open(fd, "wb") as file:
            file.write(program)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
