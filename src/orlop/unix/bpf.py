# SPDX-License-Identifier: Apache-2.0
"""bpf(2): loads programs that decide on device access and attaches them to control groups."""

import ctypes
import errno
import os
import resource

from orlop.unix._libc import NR, syscall

_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_PROG_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_F_ALLOW_MULTI, _F_REPLACE = 2, 4
_MAX_PROGRAMS = 64  # that a control group can hold, kernel/bpf/cgroup.c


class _LoadAttr(ctypes.Structure):
    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
    )


class _AttachAttr(ctypes.Structure):
    _fields_ = (
        ("target_fd", ctypes.c_uint32),
        ("attach_bpf_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("replace_bpf_fd", ctypes.c_uint32),
    )


class _QueryAttr(ctypes.Structure):
    _fields_ = (
        ("target_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("query_flags", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("prog_ids", ctypes.c_uint64),
        ("prog_cnt", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )


class _IdAttr(ctypes.Structure):
    _fields_ = (("prog_id", ctypes.c_uint32), ("next_id", ctypes.c_uint32), ("open_flags", ctypes.c_uint32))


def _bpf(command: int, attr: ctypes.Structure) -> int:
    return syscall(NR["bpf"], command, ctypes.addressof(attr), ctypes.sizeof(attr))


def load_device_program(instructions: bytes) -> int:
    """Load an array of struct bpf_insn as a program of type CGROUP_DEVICE; returns its descriptor."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_text = ctypes.create_string_buffer(b"Apache-2.0")
    attr = _LoadAttr(
        prog_type=_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt=len(instructions) // 8,
        insns=ctypes.addressof(code),
        license=ctypes.addressof(license_text),
    )
    try:
        return _bpf(_PROG_LOAD, attr)
    except PermissionError as error:
        # Before Linux 5.11 programs were charged to RLIMIT_MEMLOCK, whose default is too small for them.
        if error.errno != errno.EPERM:
            raise
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return _bpf(_PROG_LOAD, attr)


def attach_device_program(cgroup: int, program: int, replaced: int | None = None) -> None:
    """Attach a loaded program to the control group of a directory descriptor, in place of `replaced` if given."""
    flags = _F_ALLOW_MULTI | (_F_REPLACE if replaced is not None else 0)
    attr = _AttachAttr(cgroup, program, _ATTACH_CGROUP_DEVICE, flags, replaced or 0)
    _bpf(_PROG_ATTACH, attr)


def detach_device_program(cgroup: int, program: int) -> None:
    """Detach one program from the control group of a directory descriptor."""
    _bpf(_PROG_DETACH, _AttachAttr(cgroup, program, _ATTACH_CGROUP_DEVICE, 0, 0))


def attached_device_programs(cgroup: int) -> list[int]:
    """Descriptors of the programs attached to a control group; the caller closes them."""
    ids = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    attr = _QueryAttr(
        target_fd=cgroup, attach_type=_ATTACH_CGROUP_DEVICE, prog_ids=ctypes.addressof(ids), prog_cnt=_MAX_PROGRAMS
    )
    _bpf(_PROG_QUERY, attr)
    programs: list[int] = []
    try:
        for index in range(attr.prog_cnt):
            programs.append(_bpf(_PROG_GET_FD_BY_ID, _IdAttr(prog_id=ids[index])))
    except OSError:
        for program in programs:
            os.close(program)
        raise
    return programs
