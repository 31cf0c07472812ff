# SPDX-License-Identifier: Apache-2.0
"""Commands captured with their interpreter: what is started from the file is a process like any other."""

from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from orlop import launchers
from orlop.unix.unexec import capture
from orlop.unix.unexec.elf import Region, segments

pytestmark = pytest.mark.skipif(not capture.possible(), reason="CPython on x86-64 with glibc alone")

_MODULE = """
import os, random, signal, subprocess, sys, threading, time

PREPARED = []

def prepare():
    PREPARED.append(os.getpid())
    print("left in the buffer", end="")
    sys.stdout.flush()

def run():
    return globals()[sys.argv[1]](*sys.argv[2:]) if sys.argv[1:] != ["-v"] else None

def show():
    print(sys.argv[1:], os.environ.get("GREETING"), os.getenv("LD_BIND_NOW"), PREPARED != [os.getpid()])

def answer(what):
    return {"none": None, "three": 3}[what]

def leave(what):
    sys.exit({"none": None, "three": 3, "text": "a reason"}[what])

def fail():
    raise RuntimeError("unforeseen")

def allocate():
    grown = [bytes([index % 256]) * 3000 for index in range(30000)]
    assert all(piece[0] == index % 256 for index, piece in enumerate(grown))
    print(len(grown))

def tell_time():
    print(time.time(), time.clock_gettime(time.CLOCK_REALTIME), time.monotonic() > 0, time.localtime().tm_year)

def draw():
    print(random.random(), os.urandom(4).hex())

def beget():
    child = os.fork()
    if child == 0:
        os._exit(7)
    thread = threading.Thread(target=lambda: print(threading.get_native_id() != os.getpid()))
    thread.start()
    thread.join()
    said = subprocess.run(["/bin/sh", "-c", "echo $GREETING"], capture_output=True, text=True, check=True).stdout
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said, end="")
    signal.raise_signal(signal.SIGCONT)

def load():
    import decimal, ssl
    print(decimal.Decimal(1) / 4, ssl.create_default_context().verify_mode.name)

def read():
    print(sys.stdin.read().upper())

def pour():
    while True:
        print("x" * 1000)

def closed():
    os.write(2, repr((sys.stdin, sys.stdout)).encode())

def ignored():
    signals = signal.SIGHUP, signal.SIGINT, signal.SIGTERM
    print([signal.getsignal(number) == signal.SIG_IGN for number in signals])

def wait():
    print("waiting", flush=True)
    signal.pause()
"""


class Captured:
    """An executable made of the module, the script that it gives way to, and the module's file."""

    def __init__(self, directory: Path) -> None:
        self.module = directory / "orlop_captured.py"
        self.command = directory / "captured"
        self.made = self.make(_MODULE)

    def make(self, text: str) -> bool:
        """Capture the module with this text."""
        # Only orlop's modules are watched for changes.
        self.module.write_text(text)
        entry = EntryPoint("captured", f"{self.module.stem}:run", "console_scripts")
        script = self.command.parent / "scripts" / "captured"
        script.parent.mkdir(exist_ok=True)
        script.write_text('#!/bin/sh\necho script "$@" $GREETING\n')
        script.chmod(0o755)
        path = [*launchers.search_path(sys.executable), str(self.module.parent)]
        return launchers.executable(sys.executable, path, entry, str(self.command), str(script.parent))

    def __call__(self, *words: str, env: dict[str, str] | None = None, input: str = "") -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        done = subprocess.run(
            [self.command, *words], env=env or {}, input=input, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    made = Captured(tmp_path_factory.mktemp("unexec"))
    assert made.made
    return made


def test_arguments_and_environment_are_the_new_ones(captured: Captured) -> None:
    assert captured.command.read_bytes()[:4] == b"\x7fELF"
    greeted = captured("show", env={"GREETING": "moin=ahoi", "EMPTY": ""})
    assert greeted == (0, "['show'] moin=ahoi None True\n", "")
    assert captured("show") == (0, "['show'] None None True\n", "")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["answer", "none"], 0, ""), (["answer", "three"], 3, ""), (["leave", "none"], 0, ""),
        (["leave", "three"], 3, ""), (["leave", "text"], 1, "a reason\n"),
    ],
)  # fmt: skip
def test_exit_codes_are_those_of_an_interpreter(
    captured: Captured, words: list[str], code: int, said: str
) -> None:
    assert captured(*words) == (code, "", said)


def test_what_is_not_caught_is_shown(captured: Captured) -> None:
    code, out, said = captured("fail")
    assert (code, out) == (1, "")
    assert said.startswith("Traceback (most recent call last):") and said.endswith("RuntimeError: unforeseen\n")


def test_memory_grows_beyond_what_was_captured(captured: Captured) -> None:
    assert captured("allocate") == (0, "30000\n", "")


def test_clocks_are_read_without_the_vdso_of_another_boot(captured: Captured) -> None:
    before = time.time()
    code, out, said = captured("tell_time")
    assert (code, said) == (0, "")
    first, second, *rest = out.split()
    assert before <= float(first) <= float(second) <= time.time()
    assert rest == ["True", str(time.localtime().tm_year)]


def test_linux_6_1_takes_its_headers(captured: Captured) -> None:
    """A table that is no longer than a page, of more regions than would fit in."""
    assert struct.unpack_from("<H", captured.command.read_bytes(), 56)[0] <= 73
    library = [(1, 4), (2, 5), (4, 4), (5, 4), (6, 6), (7, 6), (9, 4)]
    regions = [Region(first << 12, (first + 1 + (first == 2)) << 12, flags, "") for first, flags in library]
    assert [[region.start >> 12 for region in segment] for segment in segments(regions)] == [
        [1, 2, 4, 5], [6, 7], [9],
    ]  # fmt: skip


def test_a_file_that_the_kernel_refuses_is_not_taken(tmp_path: Path) -> None:
    refused = tmp_path / "refused"
    refused.write_bytes(b"\x7fELF")
    refused.chmod(0o755)
    assert launchers.why_not(str(refused)) == "Exec format error"


def test_random_numbers_are_not_those_of_the_last_start(captured: Captured) -> None:
    drawn = [captured("draw")[1].split() for _ in range(3)]
    assert len({number for number, _ in drawn}) == len({number for _, number in drawn}) == 3


def test_processes_threads_and_signals(captured: Captured) -> None:
    assert captured("beget", env={"GREETING": "hello"}) == (0, "True\n7 hello\n", "")


def test_libraries_can_be_loaded_later(captured: Captured) -> None:
    assert captured("load") == (0, "0.25 CERT_REQUIRED\n", "")


def test_standard_streams(captured: Captured) -> None:
    assert captured("read", input="größe\n") == (0, "GRÖSSE\n\n", "")
    done = subprocess.run(
        ["sh", "-c", '"$0" closed <&- >&-', captured.command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "(None, None)")


def test_a_reader_that_goes_is_an_error_and_no_signal(captured: Captured) -> None:
    with subprocess.Popen([captured.command, "pour"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.read(10)
        process.stdout.close()
        said = process.stderr.read().decode()
    assert "BrokenPipeError" in said
    assert process.returncode == 1


def test_an_interrupt_ends_it_by_that_signal(captured: Captured) -> None:
    command = ["env", "--default-signal=INT", captured.command, "wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGINT)
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize(
    "layout", [["setarch", "-R"], ["setarch", "-L"], ["prlimit", "--stack=unlimited"], ["env"]]
)
def test_any_layout_of_memory_leaves_it_room(captured: Captured, layout: list[str]) -> None:
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    if layout[0] == "prlimit" and hard != resource.RLIM_INFINITY:
        pytest.skip("the stack is limited here")
    for _ in range(20):
        done = subprocess.run([*layout, captured.command, "show"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_changed_module_brings_the_script_back(tmp_path: Path) -> None:
    captured = Captured(tmp_path)
    watched = Path(launchers.__file__).parent / "unix" / "unexec" / "code.py"
    before = watched.stat()
    assert captured("show", env={"GREETING": "hi"})[1].startswith("['show'] hi")
    os.utime(watched, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    try:
        assert captured("show", "and more", env={"GREETING": "hi"}) == (0, "script show and more hi\n", "")
    finally:
        os.utime(watched, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert captured("show", env={"GREETING": "hi"})[1].startswith("['show'] hi")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import ssl\ndef run(): pass\n", "_ssl"),
        ("def run(): raise SystemExit(4)\n", "does not work when captured (exit code 4)"),
        ("def prepare(): raise OSError('no')\ndef run(): pass\n", "OSError: no"),
    ],
)
def test_what_cannot_be_captured_is_said_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    captured = Captured(tmp_path)
    kept = captured.command.read_bytes()
    assert not captured.make(text)
    assert said in capfd.readouterr().err
    assert captured.command.read_bytes() == kept
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".py" and path.name[0] != "_") == [
        "captured", "scripts",
    ]  # fmt: skip
