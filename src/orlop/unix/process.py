# SPDX-License-Identifier: Apache-2.0
"""Processes: making them in namespaces, joining namespaces, credentials, capabilities, limits, keyrings."""

# As signal, which makes an enumeration member of every answer.
import _signal  # type: ignore[import-not-found]
import ctypes
import os
import signal

from orlop.unix._libc import NR, Path, cstring, oserror, syscall

# clone(2), unshare(2), setns(2)
CLONE_NEWTIME = 0x00000080
CLONE_PARENT = 0x00008000
CLONE_PIDFD = 0x00001000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

# prctl(2)
PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37
PR_SET_NO_NEW_PRIVS = 38
PR_SCHED_CORE = 62
PR_SCHED_CORE_CREATE = 1
PR_SCHED_CORE_SCOPE_THREAD_GROUP = 1
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

# close_range(2)
CLOSE_RANGE_CLOEXEC = 4

_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_KEYCTL_JOIN_SESSION_KEYRING = 1
_KEYCTL_SETPERM = 5
_KEYCTL_DESCRIBE = 6
_EVERY_ID = ["0", "0", "4294967295"]
RLIM_INFINITY = 2**64 - 1

# Fork bookkeeping of the interpreter; PyDLL keeps the interpreter lock held across the call, as os.fork does.
_python = ctypes.PyDLL(None, use_errno=True)
_python.PyOS_BeforeFork.restype = None
_python.PyOS_AfterFork_Parent.restype = None
_python.PyOS_AfterFork_Child.restype = None
_locked_syscall = _python.syscall
_locked_syscall.restype = ctypes.c_long
_locked_syscall.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t]


class CloneArgs(ctypes.Structure):
    """struct clone_args of clone3(2)."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    )


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = tuple(
        (f"{name}{word}", ctypes.c_uint32) for word in (0, 1) for name in ("effective", "permitted", "inheritable")
    )


class _Rlimit(ctypes.Structure):
    _fields_ = (("soft", ctypes.c_uint64), ("hard", ctypes.c_uint64))


def clone3(flags: int = 0, *, cgroup: int = -1, exit_signal: int = signal.SIGCHLD) -> tuple[int, int]:
    """A fork with clone3(2) flags: (0, -1) in the child, (pid, pidfd) in the parent.

    With `cgroup` (a directory of the unified hierarchy) the child is born in it. The caller must have one thread
    only: the child runs on in the interpreter, on a copy of its memory, as after os.fork. CLONE_PARENT needs
    exit_signal=0 and takes the caller's own.
    """
    pidfd = ctypes.c_int(-1)
    args = CloneArgs(flags=flags | CLONE_PIDFD, pidfd=ctypes.addressof(pidfd), exit_signal=int(exit_signal))
    if cgroup >= 0:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = cgroup
    _python.PyOS_BeforeFork()
    pid: int = _locked_syscall(NR["clone3"], ctypes.addressof(args), ctypes.sizeof(args))
    if pid == 0:
        _python.PyOS_AfterFork_Child()
        return 0, -1
    number = ctypes.get_errno()
    _python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise oserror("clone3", number)
    return pid, pidfd.value


def unshare(flags: int) -> None:
    """unshare(2)."""
    syscall(NR["unshare"], flags, about="unshare")


def setns(fd: int, flags: int = 0) -> None:
    """setns(2): `fd` is a namespace, or a pidfd with the CLONE_NEW* of the namespaces to join (Linux 5.8)."""
    syscall(NR["setns"], fd, flags, about="setns")


def pidfd_open(pid: int, flags: int = 0) -> int:
    """pidfd_open(2)."""
    return syscall(NR["pidfd_open"], pid, flags, about=f"pid {pid}")


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """pidfd_send_signal(2)."""
    syscall(NR["pidfd_send_signal"], pidfd, number, None, 0)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2): a duplicate of descriptor `fd` of another process."""
    return syscall(NR["pidfd_getfd"], pidfd, fd, 0)


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2) with integer arguments."""
    return syscall(NR["prctl"], option, arg2, arg3, arg4, arg5, about="prctl")


def in_user_namespace() -> bool:
    """Whether this process lives in a user namespace other than the first."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return file.read().split() != _EVERY_ID
    except FileNotFoundError:
        return False  # a kernel without user namespaces


def set_name(name: str) -> None:
    """PR_SET_NAME: the thread's name as ps shows it, cut to 15 bytes."""
    syscall(NR["prctl"], PR_SET_NAME, name.encode()[:15], about="prctl")


def close_range(first: int, last: int = 2**32 - 1, flags: int = 0) -> None:
    """close_range(2)."""
    syscall(NR["close_range"], first, last, flags, about="close_range")


def capget(pid: int = 0) -> tuple[int, int, int]:
    """Effective, permitted and inheritable capabilities as bit sets (bit n is capability n)."""
    header = _CapHeader(_LINUX_CAPABILITY_VERSION_3, pid)
    data = _CapData()
    syscall(NR["capget"], ctypes.addressof(header), ctypes.addressof(data), about="capget")
    return (
        data.effective0 | data.effective1 << 32,
        data.permitted0 | data.permitted1 << 32,
        data.inheritable0 | data.inheritable1 << 32,
    )


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the caller's own capabilities, as bit sets."""
    low = 0xFFFFFFFF
    header = _CapHeader(_LINUX_CAPABILITY_VERSION_3, 0)
    data = _CapData(
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> 32,
        permitted >> 32,
        inheritable >> 32,
    )
    syscall(NR["capset"], ctypes.addressof(header), ctypes.addressof(data), about="capset")


def prlimit(pid: int, resource: int, soft: int, hard: int) -> None:
    """Set a limit of process `pid` with prlimit(2); RLIM_INFINITY is 2**64-1."""
    limit = _Rlimit(soft, hard)
    syscall(NR["prlimit64"], pid, resource, ctypes.addressof(limit), None, about="prlimit")


def get_rlimit(pid: int, resource: int) -> tuple[int, int]:
    """The soft and hard limit of process `pid`."""
    limit = _Rlimit()
    syscall(NR["prlimit64"], pid, resource, None, ctypes.addressof(limit), about="prlimit")
    return int(limit.soft), int(limit.hard)


def sethostname(name: Path) -> None:
    """sethostname(2)."""
    raw = cstring(name)
    syscall(NR["sethostname"], raw, len(raw), about=name)


def setdomainname(name: Path) -> None:
    """setdomainname(2)."""
    raw = cstring(name)
    syscall(NR["setdomainname"], raw, len(raw), about=name)


def personality(persona: int) -> int:
    """personality(2); 0xffffffff asks for the present one."""
    return syscall(NR["personality"], persona, about="personality")


def setgroups(groups: list[int]) -> None:
    """setgroups(2) for the calling thread, not announced to the C library's other threads."""
    array = (ctypes.c_uint32 * len(groups))(*groups)
    syscall(NR["setgroups"], len(groups), ctypes.addressof(array), about="setgroups")


def keyctl_join_session_keyring(name: Path) -> int:
    """Join (make) the session keyring of that name; its serial number."""
    return syscall(NR["keyctl"], _KEYCTL_JOIN_SESSION_KEYRING, cstring(name), about=name)


def keyctl_describe(key: int) -> str:
    """`type;uid;gid;permissions;description` of a key."""
    buffer = ctypes.create_string_buffer(1024)
    syscall(NR["keyctl"], _KEYCTL_DESCRIBE, key, ctypes.addressof(buffer), 1024, about="keyring")
    return buffer.value.decode(errors="replace")


def keyctl_setperm(key: int, permissions: int) -> None:
    """Set a key's permissions."""
    syscall(NR["keyctl"], _KEYCTL_SETPERM, key, permissions, about="keyring")


def ioprio_set(pid: int, priority: int) -> None:
    """ioprio_set(2) for one process; `priority` is class << 13 | level."""
    syscall(NR["ioprio_set"], 1, pid, priority, about="ioprio_set")


class SchedAttr(ctypes.Structure):
    """struct sched_attr of sched_setattr(2), without the utilization clamps."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def sched_setattr(pid: int, attributes: SchedAttr) -> None:
    """sched_setattr(2); the size is filled in."""
    attributes.size = ctypes.sizeof(attributes)
    syscall(NR["sched_setattr"], pid, ctypes.addressof(attributes), 0, about="sched_setattr")


def set_mempolicy(mode: int, nodes: set[int]) -> None:
    """set_mempolicy(2) for the calling thread; `mode` with its flags."""
    words = max(nodes, default=0) // 64 + 1
    mask = sum(1 << node for node in nodes).to_bytes(words * 8, "little")
    syscall(
        NR["set_mempolicy"], mode, mask if nodes else None, words * 64 + 1 if nodes else 0, about="set_mempolicy"
    )


def reset_signals() -> None:
    """Give every signal its default disposition and unblock all: what a program expects to start with.

    Python ignores SIGPIPE and SIGXFSZ, and a shim blocks what it reads from a signalfd.
    """
    for number in range(1, signal.NSIG):
        # 0 is SIG_DFL already; None: not a signal of Python's (the C library keeps 32 and 33).
        if _signal.getsignal(number) not in (0, None) and number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def exit_now(status: int) -> None:
    """_exit(2): end without running anything of the interpreter's."""
    os._exit(status)
