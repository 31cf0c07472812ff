# SPDX-License-Identifier: Apache-2.0
"""The last steps of every process of a container, from the runtime's child to the user's program.

Runs in the child, inside the container: nothing here may import, look up users or hosts, or decode with a codec
that is not built in, since the files it would read are the container's.
"""

import os
import sys

import msgspec

from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer import trampoline
from orlop.libcontainer.capabilities import CapabilitySets
from orlop.libcontainer.errors import explain
from orlop.libcontainer.executable import find_executable
from orlop.libcontainer.options import Stdio
from orlop.libcontainer.passwd import home_of
from orlop.libcontainer.rootfs.nodes import is_null
from orlop.libcontainer.scheduling import Scheduling
from orlop.libcontainer.sync import SECCOMP, WARNING, Channel
from orlop.oci.runtime import Process, Rlimit
from orlop.unix import process as proc
from orlop.unix import seccomp as unix_seccomp

_NEW_LISTENER = 8  # SECCOMP_FILTER_FLAG_NEW_LISTENER

# setrlimit(2), asm-generic/resource.h
_RLIMITS = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}


class Filter(msgspec.Struct, frozen=True):
    """A compiled seccomp filter."""

    program: bytes
    flags: int


class Program(msgspec.Struct):
    """What is run, prepared in the parent as far as it can be."""

    process: Process
    environment: dict[str, str]
    stdio: Stdio | None
    preserve_fds: int
    capabilities: CapabilitySets
    filter: Filter | None
    scheduling: Scheduling
    late_rlimits: list[Rlimit] = []
    trampoline: int = -1
    set_rlimits: bool = True  # False: the parent does it, being in the user namespace that may


def prepare_environment(env: list[str]) -> dict[str, str]:
    """`NAME=value` strings as a mapping in which the last of a name counts. Raises InvalidArgumentError."""
    result: dict[str, str] = {}
    for entry in env:
        name, separator, value = entry.partition("=")
        if not separator:
            raise InvalidArgumentError(f"process.env: \"{entry}\" is no NAME=value: missing '='")
        if not name:
            raise InvalidArgumentError("process.env: a name cannot be empty")
        if "\0" in entry:
            raise InvalidArgumentError(f'process.env: "{name}" contains a null byte')
        result.pop(name, None)
        result[name] = value
    if not result.get("HOME", "x"):
        del result["HOME"]
    return result


def isolate(channel: Channel, program: Program, keep: list[int]) -> None:
    """First thing in the child: close what it must not inherit but `keep`, and shut the import system."""
    first_free = 3 + program.preserve_fds
    stdio = program.stdio
    standard = [stdio.stdin, stdio.stdout, stdio.stderr] if stdio else []
    wanted = sorted({fd for fd in (*keep, *standard, channel.fd, program.trampoline) if fd >= first_free})
    start = first_free
    for fd in wanted:
        if fd > start:
            proc.close_range(start, fd - 1)
        start = fd + 1
    proc.close_range(start)
    sys.meta_path.clear()
    sys.path.clear()


def place_stdio(stdio: Stdio | None) -> None:
    """Put the given descriptors at 0, 1 and 2; without, those of the caller stay."""
    if stdio is None:
        for fd in (0, 1, 2):
            os.set_inheritable(fd, True)
        return
    given = [stdio.stdin, stdio.stdout, stdio.stderr]
    # Out of the way first: a given descriptor may itself be 0, 1 or 2.
    safe = [os.dup(fd) if fd < 3 else fd for fd in given]
    for target, fd in enumerate(safe):
        os.dup2(fd, target, inheritable=True)
    for fd in {*safe, *given}:
        if fd > 2:
            os.close(fd)


def own_stdio(uid: int) -> None:
    """Let the process's user reopen its streams (/dev/stdout), and point /dev/null at the container's own."""
    null = -1
    for fd in (0, 1, 2):
        try:
            status = os.fstat(fd)
        except OSError:
            # EBADF: the caller runs without that stream.
            continue
        if is_null(status):
            if null < 0:
                try:
                    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
                except OSError:
                    continue
            if is_null(os.fstat(null)):
                os.dup2(null, fd, inheritable=True)
        elif status.st_uid != uid:
            try:
                os.fchown(fd, uid, -1)
            except OSError:
                # A read-only filesystem, a foreign owner, a socket: the process has the open stream all the same.
                continue
    if null > 2:
        os.close(null)


def become_user(channel: Channel, program: Program) -> str:
    """Change directory, user, groups and capabilities to the process's; the path of its executable."""
    process = program.process
    user = process.user
    capabilities = program.capabilities
    _, available, _ = proc.capget()
    missing = capabilities.limit(available)
    if missing:
        channel.send(WARNING, f"capabilities not available to the runtime: {' '.join(missing)}".encode())
    if "HOME" not in program.environment:
        program.environment["HOME"] = home_of(user.uid)
    entered = _change_directory(process.cwd, may_fail=True)
    if entered:
        _verify_directory()  # before a filter that may forbid getcwd(2)
    raise_rlimits(channel, program)
    # Before a filter that may forbid it is loaded; what is opened from here on closes with the exec anyhow.
    proc.close_range(3, flags=proc.CLOSE_RANGE_CLOEXEC)
    if program.filter is not None and not process.no_new_privileges:
        # Without no_new_privs loading a filter takes CAP_SYS_ADMIN, which is about to go. It may
        # forbid prlimit(2).
        lower_rlimits(program)
        load_filter(channel, program.filter)
    capabilities.drop_bounding()
    proc.prctl(proc.PR_SET_KEEPCAPS, 1)
    _set_groups(user.additional_gids)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    if not entered:
        _change_directory(process.cwd, may_fail=False)
        _verify_directory()
    proc.prctl(proc.PR_SET_KEEPCAPS, 0)
    try:
        capabilities.apply()
    except OSError as error:
        raise InvalidArgumentError(f"unable to apply caps: {explain(error)}") from error
    if user.umask is not None:
        os.umask(user.umask)
    executable = find_executable(process.args[0], program.environment.get("PATH"))
    if program.filter is not None and program.filter.flags & _NEW_LISTENER:
        load_filter(channel, program.filter)
    return executable


def raise_rlimits(channel: Channel, program: Program) -> None:
    """The limits above the present ones, while there is still CAP_SYS_RESOURCE.

    Those below wait for `lower_rlimits`: they would starve this interpreter rather than the program.
    """
    if not program.set_rlimits:
        return
    lower: list[Rlimit] = []
    for limit in program.process.rlimits:
        _, hard = proc.get_rlimit(0, rlimit_number(limit.type))
        if limit.hard <= hard:
            lower.append(limit)
        else:
            for warning in set_rlimits(0, [limit]):
                channel.send(WARNING, warning.encode())
    program.late_rlimits = lower


def lower_rlimits(program: Program) -> None:
    """The rest of the limits; nothing that needs memory or descriptors may come after."""
    set_rlimits(0, program.late_rlimits)
    program.late_rlimits = []


def set_rlimits(pid: int, limits: list[Rlimit]) -> list[str]:
    """Set the limits of `pid` (0: this process); warnings about those that may not be raised here."""
    warnings: list[str] = []
    for limit in limits:
        number = rlimit_number(limit.type)
        try:
            proc.prlimit(pid, number, limit.soft, limit.hard)
        except PermissionError:
            # Without CAP_SYS_RESOURCE the hard limit is a ceiling: go as far as it lets us.
            soft, hard = proc.get_rlimit(pid, number)
            warnings.append(f"{limit.type} {limit.soft}:{limit.hard} is above what the runtime may set")
            try:
                proc.prlimit(pid, number, min(limit.soft, hard), min(limit.hard, hard))
            except PermissionError:
                warnings.append(f"{limit.type} stays {soft}:{hard}")
        except OSError as error:
            raise InvalidArgumentError(f"error setting rlimit {limit.type}: {explain(error)}") from error
    return warnings


def rlimit_number(name: str) -> int:
    """The number of a limit by its name. Raises InvalidArgumentError."""
    number = _RLIMITS.get(name)
    if number is None:
        raise InvalidArgumentError(f'process.rlimits: type is "{name}", expected one of {" ".join(_RLIMITS)}')
    return number


def load_filter(channel: Channel, filter_: Filter) -> None:
    """Install the seccomp filter; a listener's descriptor goes to the parent."""
    listener = unix_seccomp.load_filter(filter_.program, filter_.flags)
    if filter_.flags & _NEW_LISTENER:
        channel.send(SECCOMP, fd=listener)
        os.close(listener)


def execute(channel: Channel, program: Program, executable: str, report: int) -> None:
    """Run the program; returns only by raising. `report` is where the trampoline tells of a failure."""
    process = program.process
    for fd in range(3, 3 + program.preserve_fds):
        os.set_inheritable(fd, True)
    filter_ = program.filter
    lower_rlimits(program)
    # As late as can be: the fewer system calls follow, the fewer the filter has to allow.
    if filter_ and process.no_new_privileges and not filter_.flags & _NEW_LISTENER:
        load_filter(channel, filter_)
    try:
        if program.trampoline >= 0:
            os.set_inheritable(report, True)
            os.execve(
                program.trampoline,
                trampoline.arguments(report, executable, process.args),
                program.environment,
            )
        os.execve(executable, process.args, program.environment)
    except OSError as error:
        raise exec_failure(executable, error.errno or 0) from error


def exec_failure(executable: str, number: int) -> InvalidArgumentError:
    """The error for execve(2) having failed with this error number."""
    return InvalidArgumentError(f"exec {executable}: {explain(OSError(number, os.strerror(number)))}")


def _set_groups(groups: list[int]) -> None:
    try:
        os.setgroups(groups)
    except PermissionError:
        # A user namespace made by an unprivileged user has /proc/self/setgroups on "deny".
        if groups:
            raise


def _change_directory(path: str, *, may_fail: bool) -> bool:
    try:
        os.chdir(path)
        return True
    except OSError as error:
        if may_fail and isinstance(error, PermissionError):
            return False  # the user may have the access that the runtime has not (a FUSE mount, NFS)
        raise InvalidArgumentError(
            f'chdir to cwd ("{path}") set in config.json failed: {explain(OSError(error.errno, error.strerror))}'
        ) from error


def _verify_directory() -> None:
    """The working directory must lie in this mount namespace: a leaked descriptor of the host's would not."""
    try:
        inside = os.getcwd().startswith("/")
    except OSError:
        inside = False
    if not inside:
        raise InvalidArgumentError(
            "current working directory is outside of container mount namespace root -- "
            "possible container breakout detected"
        )
