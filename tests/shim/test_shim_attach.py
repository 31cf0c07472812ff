# SPDX-License-Identifier: Apache-2.0
"""Standard streams: the attach protocol, back pressure, FIFOs, files, logging programs, and late output."""

import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from support.shims import Attached, Lab, Shim, eventually

from orlop.api import shim_v2_pb2 as api
from orlop.errdefs import InvalidArgumentError, NotFoundError

pytestmark = pytest.mark.root


def finish(shim: Shim) -> None:
    if shim.state().status in (1, 2, 4):
        try:
            shim.kill(9)
        except NotFoundError:
            pass  # it has ended meanwhile
        shim.wait()
    shim.delete()
    shim.shutdown()


def test_clients_see_what_comes_while_they_are_there(lab: Lab) -> None:
    shim = lab.shim(["sh", "-c", "echo one; read x; echo two >&2; read x; echo three"])
    shim.create(stdin=f"attach://{shim.attach_path}")
    mode = os.stat(shim.attach_path).st_mode
    assert mode & 0o777 == 0o600
    with Attached(shim.attach_path, stdin=True) as first:
        shim.start()
        first.read_until(b"one\n")
        with Attached(shim.attach_path, stdout=False) as errors, Attached(shim.attach_path) as late:
            first.send(b"\n")
            errors.read_until(b"two\n", 2)
            first.send(b"\n")
            assert late.read_all() == {1: b"three\n", 2: b"two\n"}
            assert errors.read_all() == {1: b"", 2: b"two\n"}
        assert first.read_all() == {1: b"one\nthree\n", 2: b"two\n"}
    shim.wait()
    with Attached(shim.attach_path) as after:  # only the end is left to see
        assert after.read_all() == {1: b"", 2: b""}
    finish(shim)
    assert not os.path.exists(shim.attach_path)


def test_input_of_several_clients_and_no_end_without_once(lab: Lab) -> None:
    shim = lab.shim(["sh", "-c", "cat; echo end"])
    shim.create(stdin=f"attach://{shim.attach_path}")
    shim.start()
    with Attached(shim.attach_path) as watcher:
        for word in (b"a\n", b"b\n"):
            with Attached(shim.attach_path, stdin=True) as client:
                client.send(word)
                client.end_input()
                watcher.read_until(word)
        assert shim.state().status == 2
        shim.call("CloseIO", api.CloseIORequest(id="c1", stdin=True))
        assert watcher.read_all()[1] == b"a\nb\nend\n"
    assert shim.wait() == 0
    finish(shim)


@pytest.mark.parametrize("close", [True, False], ids=["client closes", "client half-closes"])
def test_once_ends_stdin_with_the_first_client(lab: Lab, close: bool) -> None:
    shim = lab.shim(["cat"])
    shim.create(stdin=f"attach://{shim.attach_path}?once=1")
    shim.start()
    client = Attached(shim.attach_path, stdin=True)
    client.send(b"hi\n")
    if not close:
        client.end_input()
        assert client.read_all()[1] == b"hi\n"
    client.close()
    assert shim.wait() == 0
    assert shim.log() == [("stdout", "hi\n")]
    finish(shim)


def test_large_input_arrives_whole(lab: Lab) -> None:
    shim = lab.shim(["sh", "-c", "sleep 0.2; cat | wc -c"])
    (shim.bundle / "config.json").write_text(
        (shim.bundle / "config.json").read_text().replace("cat | wc -c", "cat | busybox wc -c")
    )
    shim.create(stdin=f"attach://{shim.attach_path}?once=1")
    with Attached(shim.attach_path, stdin=True) as client:
        shim.start()
        client.send(b"x" * 3_000_000)
        client.end_input()
        assert client.read_all()[1].strip() == b"3000000"
    finish(shim)


@pytest.mark.parametrize(
    ("hello", "complaint"),
    [
        (b"not json\n", "the first line must be JSON"),
        (b"[]\n", "must be a JSON object"),
        (b'{"stdin": 1}\n', "stdin must be true or false"),
        (b'{"logs": true}\n', "unknown field 'logs'"),
        (b"x" * 5000, "the first line must be JSON"),
    ],
)
def test_bad_hello(lab: Lab, hello: bytes, complaint: str) -> None:
    shim = lab.shim(["sleep", "1000"])
    shim.create()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(shim.attach_path)
        sock.sendall(hello)
        answer = b""
        while data := sock.recv(4096):
            answer += data
    assert complaint in json.loads(answer)["error"]
    finish(shim)


def test_slow_client_slows_and_gone_client_does_not(lab: Lab) -> None:
    script = "i=0; while [ $i -lt 200 ]; do busybox head -c 65536 /dev/zero; i=$((i+1)); done; echo done >&2"
    config_of = ["sh", "-c", script]
    shim = lab.shim(config_of)
    spec = json.loads((shim.bundle / "config.json").read_text())
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/dev"][:1]
    spec["mounts"].append({"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]})
    (shim.bundle / "config.json").write_text(json.dumps(spec))
    uri = f"attach://{shim.attach_path}"
    shim.create(stdout=uri, stderr=uri)
    slow = Attached(shim.attach_path)
    shim.start()
    time.sleep(0.5)  # long enough to be finished, were it not held back
    assert shim.state().status == 2
    slow.close()
    assert shim.wait() == 0
    finish(shim)


def test_slow_client_gets_everything_even_after_delete(lab: Lab) -> None:
    shim = lab.shim(["sh", "-c", "seq 1 50000"])
    shim.create()
    with Attached(shim.attach_path) as slow:
        shim.start()
        assert shim.wait() == 0
        shim.delete()
        shim.shutdown()
        assert slow.read_all()[1].split() == [b"%d" % n for n in range(1, 50001)]
    assert len(shim.log()) == 50000


def test_log_is_complete_when_the_exit_is_told(lab: Lab) -> None:
    shim = lab.shim(["seq", "1", "5000"])
    shim.run()
    lab.sink.wait_for("exit")
    assert [text for _, text in shim.log()] == [f"{n}\n" for n in range(1, 5001)]
    finish(shim)


def test_background_child_holds_attached_clients_for_two_seconds(lab: Lab) -> None:
    shim = lab.shim(["sleep", "1000"])
    shim.run()
    shim.exec("e1", ["sh", "-c", "sleep 100 & echo hello"])
    with Attached(shim.exec_socket("e1")) as client:
        shim.start("e1")
        assert shim.wait("e1") == 0
        before = time.monotonic()
        assert client.read_all()[1] == b"hello\n"
        assert 1.0 < time.monotonic() - before < 4.0
    shim.delete("e1")
    finish(shim)


def test_fifos_of_a_foreign_client(lab: Lab) -> None:
    shim = lab.shim(["sh", "-c", "cat; echo err >&2"])
    paths = {name: str(shim.bundle / name) for name in ("stdin", "stdout", "stderr")}
    for path in paths.values():
        os.mkfifo(path)
    shim.create(**paths)
    got: dict[str, bytes] = {}

    def read(name: str) -> None:
        got[name] = Path(paths[name]).read_bytes()

    readers = [threading.Thread(target=read, args=(name,)) for name in ("stdout", "stderr")]
    for reader in readers:
        reader.start()
    shim.start()
    with open(paths["stdin"], "wb") as stdin:
        stdin.write(b"through a fifo\n")
    assert shim.state().status == 2  # another client may come
    shim.call("CloseIO", api.CloseIORequest(id="c1", stdin=True))
    assert shim.wait() == 0
    for reader in readers:
        reader.join(10)
    assert got == {"stdout": b"through a fifo\n", "stderr": b"err\n"}
    finish(shim)


def test_reader_of_a_fifo_may_die_and_come_back(lab: Lab) -> None:
    shim = lab.shim(["sh", "-c", "echo one; read x; echo two; read x; echo three"])
    for name in ("stdin", "stdout"):
        os.mkfifo(shim.bundle / name)
    out = shim.bundle / "stdout"
    shim.create(stdin=f"fifo://{shim.bundle}/stdin", stdout=str(out), stderr="")
    shim.start()
    with open(out, "rb") as reader:
        assert reader.readline() == b"one\n"
    with open(shim.bundle / "stdin", "wb") as stdin:
        stdin.write(b"\n")  # what follows has no reader, and must not end the shim or the process
    with open(out, "rb") as reader, open(shim.bundle / "stdin", "wb") as stdin:
        assert reader.readline() == b"two\n"
        stdin.write(b"\n")
        stdin.flush()
        assert reader.read() == b"three\n"
    assert shim.wait() == 0
    finish(shim)


def test_file_uri(lab: Lab) -> None:
    shim = lab.shim(["sh", "-c", "echo out; echo err >&2"])
    uri = f"file://{shim.bundle}/logs/raw.log"
    shim.create(stdout=uri, stderr=uri)
    shim.start()
    shim.wait()
    lab.sink.wait_for("exit")
    assert sorted((shim.bundle / "logs/raw.log").read_text().splitlines()) == ["err", "out"]
    finish(shim)


def test_a_file_for_each_stream(lab: Lab) -> None:
    shim = lab.shim(["sh", "-c", "echo out; echo err >&2"])
    shim.create(stdout=f"file://{shim.bundle}/out", stderr=f"file://{shim.bundle}/err")
    shim.start()
    shim.wait()
    lab.sink.wait_for("exit")
    assert ((shim.bundle / "out").read_text(), (shim.bundle / "err").read_text()) == ("out\n", "err\n")
    finish(shim)


@pytest.mark.parametrize("scheme", ["binary", "binary-v2"])
def test_logging_program(lab: Lab, scheme: str) -> None:
    shim = lab.shim(["sh", "-c", "echo out; echo err >&2"])
    logger, kept = shim.bundle / "logger", shim.bundle / "kept"
    ready = "printf x >&5; " if scheme == "binary-v2" else ""
    first = "echo $1 $2 $CONTAINER_ID $CONTAINER_NAMESPACE"
    script = f"{ready}exec 5>&-\n{{ {first}; cat <&3; cat <&4; }} >{kept}.new\nmv {kept}.new {kept}\n"
    logger.write_text(f"#!/bin/sh\n{script}")
    logger.chmod(0o755)
    uri = f"{scheme}://{logger}?key=value"
    shim.create(stdout=uri, stderr=uri)
    shim.start()
    assert shim.wait() == 0
    eventually(kept.exists)
    assert kept.read_text() == "key value c1 lab\nout\nerr\n"
    finish(shim)


def test_logging_program_that_is_not_ready(lab: Lab) -> None:
    shim = lab.shim(["true"])
    uri = "binary-v2:///bin/true"
    with pytest.raises(Exception, match="ended before it was ready"):
        shim.create(stdout=uri, stderr=uri)
    shim.shutdown()


def test_streams_that_cannot_be_opened(lab: Lab) -> None:
    shim = lab.shim(["true"])
    for fields, kind, complaint in [
        ({"stdout": "/no/such/fifo", "stderr": ""}, NotFoundError, "/no/such/fifo: no such file or directory"),
        ({"stdout": "nope:///x", "stderr": ""}, InvalidArgumentError, "stdout: unknown scheme 'nope'"),
        (
            {"stdout": "attach:///a", "stderr": "attach:///b"},
            InvalidArgumentError,
            "stderr 'attach:///b' must equal",
        ),
        ({"stdin": str(shim.bundle / "config.json")}, InvalidArgumentError, "config.json is no FIFO"),
    ]:
        with pytest.raises(kind) as caught:
            shim.create(**fields)
        assert complaint in str(caught.value)
    fds = os.listdir(f"/proc/{shim.pid}/fd")
    assert len(fds) < 12, fds
    shim.run()
    assert shim.wait() == 0
    finish(shim)


def test_no_descriptor_is_left_after_many_execs(lab: Lab) -> None:
    shim = lab.shim(["sleep", "1000"])
    shim.run()

    def one() -> None:
        shim.exec("e", ["true"], stdin=f"attach://{shim.exec_socket('e')}")
        with Attached(shim.exec_socket("e")):
            shim.start("e")
            assert shim.wait("e") == 0
        shim.delete("e")

    one()
    before = sorted(os.listdir(f"/proc/{shim.pid}/fd"))
    for _ in range(5):
        one()
    assert sorted(os.listdir(f"/proc/{shim.pid}/fd")) == before
    finish(shim)
