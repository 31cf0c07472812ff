# SPDX-License-Identifier: Apache-2.0
"""What a shim costs while nothing happens: memory of its own, and system calls."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.shims import Lab, eventually

from orlop.unix import specializing

pytestmark = pytest.mark.root

_LIMIT = 3500
"""KiB of written memory of an idle shim. It is some 2000; without the template it would be 10000."""

_TEMPLATE = """
import ctypes, os
from orlop.unix.template import Template
Template.rehearse()
kept = [bytearray(os.urandom(4096)) for _ in range(500)]
copies = [bytes(each) for each in kept]
template = Template.take()
assert template is not None
def check():
    assert [bytes(each) for each in kept] == copies
pid = os.fork()
if pid:
    check()
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
for each in kept:
    each[7] ^= 1
assert template.settle() < 500
for each in kept:
    each[7] ^= 1
assert template.settle() > 300
check()
for size in (100, 600, 5000, 200_000):  # the heap and the arenas shrink and grow
    for _ in range(3):
        more = [bytes(size) for _ in range(2000)]
        template.settle()
        del more
        ctypes.CDLL(None).malloc_trim(0)
        template.settle()
check()
os._exit(0)
"""


def test_contents_survive_what_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _TEMPLATE], check=False, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_mappings_that_have_been_replaced_keep_their_contents() -> None:
    code = """
import ctypes, mmap
from orlop.unix.template import Template
buffer = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
buffer[:] = b"x" * (1 << 20)
address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
template = Template.take()
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
assert libc.mmap(address, 1 << 20, 3, 2 | 16 | 32, -1, 0) == address
buffer[: 1 << 19] = b"x" * (1 << 19)
assert template.settle() >= 128
assert buffer[: 1 << 19] == b"x" * (1 << 19)
assert buffer[1 << 19 :] == bytes(1 << 19)
libc.munmap(address, 1 << 20)
template.settle()
import os
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the count of calls is CPython 3.11's")
def test_code_is_left_as_it_is() -> None:
    code = """
from orlop.unix import specializing
def add(x): return x + 1
specializing.leave_unspecialized()
before = bytes(add.__code__._co_code_adaptive)
for _ in range(1000): add(1)
assert bytes(add.__code__._co_code_adaptive) == before
"""
    assert specializing._is_there()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _anonymous(pid: int) -> int:
    """KiB of pages that are no file's: the template is one, and what has been written is not."""
    found = re.search(r"^Anonymous: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    assert found
    return int(found[1])


def test_idle_shims_are_small(lab: Lab) -> None:
    shims = [lab.shim(["sleep", "1000"], f"c{number}") for number in range(3)]
    for shim in shims:
        shim.run()
    eventually(lambda: _anonymous(shims[-1].pid) < _LIMIT)
    for shim in shims:
        shim.kill()
        assert shim.wait() == 137
        shim.delete()
        shim.shutdown()


def test_idle_shims_make_no_system_calls(lab: Lab) -> None:
    shim = lab.shim(["sleep", "1000"])
    shim.run()
    eventually(lambda: _anonymous(shim.pid) < _LIMIT)
    command = ["timeout", "-s", "INT", "2", "strace", "-q", "-p", str(shim.pid)]
    traced = subprocess.run(command, check=False, capture_output=True, text=True)
    calls = [line for line in traced.stderr.splitlines() if "detached" not in line]
    assert len(calls) <= 1, calls  # the wait that it is in
    shim.kill()
    shim.wait()
    shim.delete()
    shim.shutdown()
