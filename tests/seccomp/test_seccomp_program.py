# SPDX-License-Identifier: Apache-2.0
"""The seccomp compiler, run by a small interpreter and held against libseccomp's own filters."""

import ctypes
import errno
import functools
import os
import random
import socket
import struct
import time

import pytest

from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer import seccomp
from orlop.libcontainer.seccomp_numbers import IPC, SOCKETCALL, X32_BIT, numbers
from orlop.libcontainer.seccomp_program import ACTIONS, compile_program
from orlop.oci.defaults import ALL_CAPABILITIES, DEFAULT_CAPABILITIES
from orlop.oci.runtime import Seccomp, SeccompArg, SeccompSyscall
from orlop.oci.seccomp import default_profile

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the cases are those of x86_64")

X86_64, X86, ARM = 0xC000003E, 0x40000003, 0x40000028
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0, 0x50001, 0x50026
OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")


@functools.cache
def instructions(program):
    return list(struct.iter_unpack("=HBBI", program))


def run(program, number, args=(), audit=X86_64):
    """What the kernel would return for one system call."""
    data = struct.pack("<IIQ6Q", number, audit, 0, *args, *[0] * (6 - len(args)))
    code = instructions(program)
    accumulator = place = 0
    while True:
        operation, yes, no, k = code[place]
        place += 1
        if operation == 0x06:
            return k
        if operation == 0x20:
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif operation == 0x54:
            accumulator &= k
        elif operation == 0x05:
            place += k
        else:
            taken = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k}[operation]
            place += yes if taken else no


def profile(*calls, default="SCMP_ACT_ERRNO", architectures=("SCMP_ARCH_X86_64",), **more):
    return Seccomp(default_action=default, architectures=list(architectures), syscalls=list(calls), **more)


def call(names, action="SCMP_ACT_ALLOW", *args, errno_ret=None):
    return SeccompSyscall(
        names=names.split(),
        action=action,
        errno_ret=errno_ret,
        args=[
            SeccompArg(index=index, op=f"SCMP_CMP_{op}", value=value, value_two=two)
            for index, op, value, two in args
        ],
    )


@pytest.fixture(scope="module")
def docker():
    return compile_program(default_profile(DEFAULT_CAPABILITIES, "amd64", (6, 1)))


@functools.cache
def number(name, table="x86_64"):
    return numbers(table)[name]


def test_dockers_profile(docker):
    assert len(docker) // 8 < 1500
    assert run(docker, number("read")) == ALLOW
    assert run(docker, number("mount")) == EPERM
    assert run(docker, number("chroot")) == ALLOW
    assert run(docker, number("clone3")) == ENOSYS
    assert run(docker, number("clone"), [0x11]) == ALLOW
    assert run(docker, number("clone"), [0x10000000]) == EPERM
    assert run(docker, number("personality"), [0xFFFFFFFF]) == ALLOW
    assert run(docker, number("personality"), [0x1_00000000]) == EPERM
    assert [run(docker, number("socket"), [family]) for family in (1, 37, 38, 39, 40, 41)] == [
        ALLOW, ALLOW, EPERM, ALLOW, EPERM, ALLOW,
    ]  # fmt: skip
    assert run(docker, 5000) == ENOSYS
    assert run(docker, number("read", "x32")) == ALLOW
    assert run(docker, X32_BIT | 5000) == ENOSYS
    assert run(docker, number("read", "x86"), audit=X86) == ALLOW
    assert run(docker, number("read"), audit=ARM) == KILL


@pytest.mark.parametrize("family", [socket.AF_ALG, socket.AF_VSOCK])
def test_families_of_sockets_that_lead_into_the_kernel(docker, family):
    """CVE-2026-31431: not even as the system call of 32-bit programs, which takes anything, but fails here."""
    assert run(docker, number("socket"), (family, socket.SOCK_SEQPACKET, 0)) == EPERM
    assert run(docker, number("socket"), (family | 1 << 32, socket.SOCK_SEQPACKET, 0)) != KILL
    assert run(docker, number("socket"), (socket.AF_INET, socket.SOCK_STREAM, 0)) == ALLOW


def test_privileged_capabilities_open_more():
    program = compile_program(default_profile(ALL_CAPABILITIES, "amd64", (6, 1)))
    assert run(program, number("mount")) == ALLOW
    assert run(program, number("clone3")) == ALLOW
    assert run(program, number("clone"), [0x10000000]) == ALLOW
    assert run(program, number("kexec_load")) == EPERM


@pytest.mark.parametrize("name", ACTIONS)
def test_every_action(name):
    if name == "SCMP_ACT_NOTIFY":
        assert run(compile_program(profile(call("getpid", name))), number("getpid")) == ACTIONS[name]
        return
    value = ACTIONS[name] | (1 if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE") else 0)
    program = compile_program(profile(call("getpid", name), default="SCMP_ACT_LOG"))
    assert run(program, number("getpid")) == value
    assert (
        run(compile_program(profile(call("getpid", "SCMP_ACT_ERRNO", errno_ret=99), default=name)), 39) == 0x50063
    )


def test_default_errno_and_calls_beyond_the_profile():
    program = compile_program(profile(call("futex"), default_errno_ret=13))
    assert run(program, number("getpid")) == 0x5000D
    assert run(program, number("futex") + 1) == ENOSYS
    assert run(program, 0xFFFFFFFF) == 0x5000D
    quiet = compile_program(profile(call("futex"), default_errno_ret=38))
    assert run(quiet, 5000) == ENOSYS
    open_ = compile_program(profile(call("futex", "SCMP_ACT_ERRNO"), default="SCMP_ACT_ALLOW"))
    assert run(open_, 5000) == ALLOW


def test_x32_is_another_world_without_its_architecture():
    program = compile_program(profile(call("read")))
    assert run(program, number("read", "x32")) == KILL
    assert run(program, number("read", "x86"), audit=X86) == KILL


def test_conditions_are_joined_and_repeated_arguments_are_alternatives():
    both = compile_program(profile(call("dup2", "SCMP_ACT_ALLOW", (0, "EQ", 1, 0), (1, "EQ", 2, 0))))
    assert run(both, number("dup2"), [1, 2]) == ALLOW
    assert run(both, number("dup2"), [1, 3]) == EPERM
    either = compile_program(profile(call("dup2", "SCMP_ACT_ALLOW", (0, "EQ", 1, 0), (0, "EQ", 5, 0))))
    assert [run(either, number("dup2"), [value]) for value in (1, 5, 2)] == [ALLOW, ALLOW, EPERM]


def test_a_rule_without_conditions_wins():
    program = compile_program(profile(call("dup2", "SCMP_ACT_KILL_PROCESS", (0, "EQ", 1, 0)), call("dup2")))
    assert run(program, number("dup2"), [1]) == ALLOW


def test_socketcall_and_ipc_of_32_bit_callers():
    program = compile_program(
        profile(call("socket", "SCMP_ACT_ERRNO", (0, "EQ", 40, 0)), call("shmget", "SCMP_ACT_ERRNO"),
                default="SCMP_ACT_ALLOW", architectures=["SCMP_ARCH_X86"])
    )  # fmt: skip
    socketcall, ipc = number("socketcall", "x86"), number("ipc", "x86")
    assert run(program, socketcall, [1], audit=X86) == EPERM
    assert run(program, socketcall, [2], audit=X86) == ALLOW
    assert run(program, ipc, [23 | 1 << 16], audit=X86) == EPERM
    assert run(program, ipc, [1], audit=X86) == ALLOW


@pytest.mark.parametrize(("bad", "message"), [
    (profile(default="SCMP_ACT_MAYBE"), "default action 'SCMP_ACT_MAYBE' is not known"),
    (profile(default="SCMP_ACT_NOTIFY"), "cannot be used as default action"),
    (profile(call("write", "SCMP_ACT_NOTIFY")), "cannot be used for the write syscall"),
    (profile(call("read", "SCMP_ACT_ALLOW", (6, "EQ", 1, 0))), "argument index 6"),
    (profile(call("read", "SCMP_ACT_ALLOW", (0, "LIKE", 1, 0))), "operator 'SCMP_CMP_LIKE' is not known"),
    (profile(architectures=["SCMP_ARCH_VAX"]), "architecture 'SCMP_ARCH_VAX' is not known"),
])  # fmt: skip
def test_what_is_wrong_is_named(bad, message):
    with pytest.raises(InvalidArgumentError, match=message):
        compile_program(bad)


def test_foreign_architectures_and_unknown_calls_are_left_out():
    program = compile_program(profile(call("read no_such_call"), architectures=["SCMP_ARCH_MIPS"]))
    assert run(program, number("read")) == ALLOW


class LibSeccomp:
    """libseccomp, driven as runc drives it."""

    ARCHITECTURES = {"SCMP_ARCH_X86": 0x40000003, "SCMP_ARCH_X32": 0x4000003E, "SCMP_ARCH_X86_64": 0xC000003E}
    OPERATOR = {f"SCMP_CMP_{name}": value for value, name in enumerate(OPERATORS, 1)}

    class Arg(ctypes.Structure):
        _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))

    def __init__(self):
        self.library = ctypes.CDLL("libseccomp.so.2")
        self.library.seccomp_init.restype = ctypes.c_void_p

    def compile(self, profile):
        library = self.library
        context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(self.action(profile.default_action, None))))
        for name in profile.architectures:
            assert library.seccomp_arch_add(context, ctypes.c_uint32(self.ARCHITECTURES[name])) in (
                0,
                -errno.EEXIST,
            )
        for entry in profile.syscalls:
            for name in entry.names:
                value = library.seccomp_syscall_resolve_name(name.encode())
                args = (self.Arg * 6)(*[
                    self.Arg(arg.index, self.OPERATOR[arg.op], arg.value, arg.value_two) for arg in entry.args
                ])  # fmt: skip
                action = ctypes.c_uint32(self.action(entry.action, entry.errno_ret))
                added = library.seccomp_rule_add_array(context, action, value, len(entry.args), args)
                assert added == 0, os.strerror(-added)
        reader, writer = os.pipe()
        with open(reader, "rb") as file:
            assert library.seccomp_export_bpf(context, writer) == 0
            os.close(writer)
            program = file.read()
        library.seccomp_release(context)
        return program

    @staticmethod
    def action(name, errno_ret):
        return ACTIONS[name] | (errno_ret or 1 if name == "SCMP_ACT_ERRNO" else 0)


@pytest.fixture(scope="module")
def libseccomp():
    try:
        return LibSeccomp()
    except OSError:
        pytest.skip("no libseccomp here")


INTERESTING = (0, 1, 2, 5, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x1_00000000, 0x1_00000001, 0x8000_0000_0000_0000,
               0xFFFF_FFFF_0000_0001, 2**64 - 1)  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_same_verdicts_as_libseccomp(libseccomp, seed):
    choose = random.Random(seed)
    names = choose.sample(sorted(set(numbers("x86_64")) & set(numbers("x86")) & set(numbers("x32"))), 40)
    names = [name for name in names if number(name) < 440 and name not in SOCKETCALL and name not in IPC]
    calls = []
    for name in names:
        args = [
            (index, choose.choice(OPERATORS), choose.choice(INTERESTING), choose.choice(INTERESTING))
            for index in sorted(choose.sample(range(6), choose.choice((0, 0, 1, 1, 2, 3))))
        ]
        calls.append(call(name, choose.choice(("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRAP")), *args))
    made = profile(*calls, architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])
    ours, theirs = compile_program(made), libseccomp.compile(made)
    for audit, table in ((X86_64, "x86_64"), (X86, "x86"), (X86_64, "x32"), (ARM, "x86")):
        for name in [*names, "getpid"]:
            for _ in range(12):
                args = [
                    choose.choice(INTERESTING) & (0xFFFFFFFF if table == "x86" else 2**64 - 1) for _ in range(6)
                ]
                value = number(name, table)
                expected = run(theirs, value, args, audit)
                if value <= max(number(other, table) for other in names) or audit == ARM:
                    assert run(ours, value, args, audit) == expected, (name, table, args)


def attempt(program, flags, body):
    """Exit status of a child that loads the filter (no_new_privs set) and then runs `body`."""
    from orlop.unix.process import prctl
    from orlop.unix.seccomp import load_filter

    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
            load_filter(program, flags)
            status = body()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_kernel_takes_dockers_profile(docker):
    made = default_profile(DEFAULT_CAPABILITIES, "amd64", (6, 1))

    def body():
        os.close(os.open("/dev/null", os.O_RDONLY))
        try:
            os.chroot("/nowhere")
        except OSError as error:
            if error.errno == errno.ENOENT:
                libc = ctypes.CDLL(None, use_errno=True)
                libc.syscall(number("keyctl"), 0, 0, 0, 0, 0)
                first = ctypes.get_errno()
                libc.syscall(2000)
                return 7 if (first, ctypes.get_errno()) == (errno.EPERM, errno.ENOSYS) else 1
        return 2

    assert attempt(seccomp.compile(made, cache_directory="/nonexistent/x"), seccomp.filter_flags(made), body) == 7


def test_the_kernel_kills_and_compares_64_bits():
    made = profile(
        call("dup2", "SCMP_ACT_KILL_PROCESS", (1, "EQ", 77, 0)),
        call("lseek", "SCMP_ACT_ERRNO", (1, "GT", 0x1_00000005, 0), errno_ret=55),
        default="SCMP_ACT_ALLOW",
    )
    program = compile_program(made)
    assert attempt(program, 0, lambda: os.dup2(1, 77) and 0) == -31

    def body():
        fd = os.memfd_create("seeks")
        assert os.lseek(fd, 0x1_00000005, 0) == 0x1_00000005
        try:
            os.lseek(fd, 0x1_00000006, 0)
        except OSError as error:
            return error.errno
        return 0

    assert attempt(program, 0, body) == 55


def test_flags():
    assert seccomp.filter_flags(profile()) == 4
    assert seccomp.filter_flags(profile(flags=["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"])) == 2
    assert seccomp.filter_flags(profile(call("getpid", "SCMP_ACT_NOTIFY"))) == 4 | 8
    with pytest.raises(InvalidArgumentError, match="flag 'X' is not known"):
        seccomp.filter_flags(profile(flags=["X"]))


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.setattr(seccomp, "_compiled", {})


def kept(directory):
    return [entry.path for entry in os.scandir(directory)]


def test_programs_are_kept_and_only_ours_are_trusted(tmp_path, fresh, monkeypatch):
    directory = tmp_path / "cache"
    made = profile(call("read"))
    program = seccomp.compile(made, str(directory))
    (path,) = kept(directory)
    assert os.stat(path).st_mode & 0o7777 == 0o600 and os.stat(directory).st_mode & 0o7777 == 0o700

    def compiled_anew():
        seen = []
        monkeypatch.setattr(seccomp, "_compiled", {})
        with monkeypatch.context() as patch:
            patch.setattr(
                "orlop.libcontainer.seccomp_program.compile_program", lambda profile: seen.append(1) or b"12345678"
            )
            patch.setattr(seccomp, "_keep", lambda path, program: None)
            seccomp.compile(made, str(directory))
        return bool(seen)

    assert not compiled_anew()
    assert seccomp._read_kept(path) == program
    os.chmod(path, 0o620)
    assert compiled_anew()
    os.chmod(path, 0o600)
    if os.getuid() == 0:
        os.chown(path, 65534, 0)
        assert compiled_anew()
        os.chown(path, 0, 0)
    os.chmod(directory, 0o777)
    assert compiled_anew()
    os.chmod(directory, 0o700)
    os.rename(path, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", path)
    assert compiled_anew()
    os.unlink(path)
    os.mkfifo(path, 0o600)
    assert compiled_anew()


def test_compiling_is_quick(fresh):
    made = default_profile(DEFAULT_CAPABILITIES, "amd64", (6, 1))
    started = time.process_time()
    compile_program(made)
    assert time.process_time() - started < 0.5
