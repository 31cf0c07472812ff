# SPDX-License-Identifier: Apache-2.0
"""Debian's ctr and ours, the same command lines on the same containerd: exit status and output must be the same.

In the lines {own} is a name of the program's own, so that each can make and remove things. What is left out of the
comparison: times, ages, names of one's own, and the order of labels, which Go does not keep.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from support import images
from support.containerd import CTR, Daemon, Result, run, wait_until
from support.pace import PACE
from support.registry import Registry, registry

from orlop.codec import decode
from orlop.oci.image import OCI_MANIFEST, Manifest

__all__ = ["registry"]

pytestmark = [pytest.mark.root, pytest.mark.original]

IMAGE = "docker.io/library/busybox:latest"
PROGRAMS = {"aaaa": [CTR], "bbbb": [sys.executable, "-P", "-m", "orlop.ctr.main"]}

LINES = """
images ls
images ls -q
images ls name=={image}
images check
images check -q
images tag {image} example.com/{own}:1
images tag {image} example.com/{own}:1
images label example.com/{own}:1 a=b
images label example.com/{own}:1 a=
images rm example.com/{own}:1
images rm example.com/{own}:1
images export {base}/{own}.tar {image}
images export --skip-manifest-json {base}/{own}.tar {image}
images export --all-platforms {base}/{own}.tar {image}
images convert --uncompress none example.com/{own}:2
containers checkpoint --rw --image box example.com/{own}/checkpoint:1
containers checkpoint none example.com/{own}/checkpoint:2
containers restore none example.com/{own}/checkpoint:2
images rm example.com/{own}/checkpoint:1
install none
images none
content ls
content ls -q
content get {manifest}
content active
content label {layer} a=b
content label {layer} a=
content rm sha256:0000000000000000000000000000000000000000000000000000000000000000
content ingest --expected-digest sha256:0000000000000000000000000000000000000000000000000000000000000000 {own}
content ingest
content fetch --plain-http localhost:1/none:1
content fetch-object --plain-http localhost:1/none:1
content push-object localhost:1/none:1
content edit sha256:0000000000000000000000000000000000000000000000000000000000000000
images pull --plain-http localhost:1/none:1
images push --plain-http localhost:1/none:1
content prune references --dry
snapshots ls
snapshots info {top}
snapshots info box
snapshots info none
snapshots usage
snapshots usage -b box
snapshots tree
snapshots mounts /mnt box
snapshots m /mnt box
snapshots prepare {own} {top}
snapshots label {own} a=b
snapshots rm {own}
snapshots rm none
snapshots unpack {manifest}
snapshots unpack sha256:0000000000000000000000000000000000000000000000000000000000000000
snapshots view {own} {top}
snapshots ls
snapshots rm {own}
snapshots prepare {own}-p {top}
snapshots commit {own}-c {own}-p
snapshots info {own}-c
snapshots rm {own}-c
leases create --id {own} a=b
leases ls
leases ls -q
leases rm {own}
leases rm {own}
ns ls
ns ls -q
ns create {own} a=b
ns create {own} a=b
ns label {own} a=c
ns rm {own}
ns rm --cgroup {own}
containers ls
containers ls -q
containers ls id==none
containers info --spec box
containers info none
containers create {image} {own} sleep 1
containers label {own} a=b
containers label {own}
containers rm {own}
containers rm {own}
tasks ls
tasks ls -q
tasks ps box
tasks exec --exec-id {own} box echo inside
tasks exec --exec-id {own} box sh -c exit_5
tasks pause {own}-box
tasks metrics {own}-none
tasks resume {own}-box
containers create {image} {own}-t true
tasks start --null-io {own}-t
tasks ls
tasks rm {own}-t
containers rm {own}-t
containers create {image} {own}-t false
tasks start --null-io {own}-t
tasks rm {own}-t
containers rm {own}-t
tasks kill {own}-box
tasks kill -s KILL {own}-box
tasks kill none
tasks start none
tasks attach none
tasks checkpoint none
tasks rm none
tasks rm box
shim --id box state
shim --id none state
run --rm {image} {own} echo out
run --rm {image} {own} /no/such/program
run --rm none {own}
run
plugins ls
plugins ls -q
plugins ls -d id==overlayfs
pprof goroutines
none
"""


class Pair:
    """A containerd of Debian's with an image and containers, and both programs."""

    _boxes = ("box", *(f"{own}-box" for own in ("aaaa", "bbbb")))

    def __init__(self) -> None:
        self.daemon = Daemon("original").start()
        self.base = ["-a", self.daemon.address, "-n", self.daemon.namespace]
        self.daemon.ctr("images", "import", images.archive("busybox")).ok()
        for name in self._boxes:
            self.daemon.ctr("run", "-d", "--null-io", IMAGE, name, "sleep", "1000").ok()
        manifest = images.busybox().target.digest
        layers = decode(images.busybox().blobs[manifest], Manifest).layers
        snapshots = self.daemon.ctr("snapshots", "ls").ok().splitlines()
        self.names = {
            "image": IMAGE, "manifest": manifest, "layer": layers[0].digest, "base": self.daemon.base,
            "top": next(line.split()[0] for line in snapshots if "Committed" in line),
        }  # fmt: skip

    def close(self) -> None:
        for name in self._boxes:
            self.daemon.ctr("tasks", "rm", "-f", name)
            self.daemon.ctr("containers", "rm", name).ok()
        self.daemon.remove()

    def run(self, own: str, line: str, **options: Any) -> Result:
        """One line by the program whose name that is."""
        words = [word.replace("_", " ") if word.startswith("exit_") else word for word in line.split()]
        words = [word.format(own=own, **self.names) for word in words]
        return run([*PROGRAMS[own], *self.base, *words], stdin=subprocess.DEVNULL, **options)

    def compare(self, line: str) -> tuple[Result, Result]:
        """By both; the outputs normalized."""
        results = []
        for own in PROGRAMS:
            done = self.run(own, line)
            done.out = _normal(done.out)
            if line.startswith("tasks ls"):  # containerd tells them in any order
                done.out = "\n".join(sorted(done.out.splitlines()))
            results.append(done)
        return results[0], results[1]


def _normal(text: str) -> str:
    for name in PROGRAMS:
        text = text.replace(name, "{own}")
    text = re.sub(r"\d{4}-\d\d-\d\d[T ][\d:.]+(Z| \+0000 UTC)?", "TIME", text)
    text = re.sub(r'\{\s*"seconds": -?\d+\s*\}', '"TIME"', text)  # as containerd 1.7 writes times
    text = re.sub(r"About a minute|\d+ seconds|\d+ minutes", "AGE", text)
    lines = (",".join(sorted(re.split(r"[,\t]", line))) if "," in line else line for line in text.splitlines())
    return "\n".join(lines)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


@pytest.mark.parametrize("line", LINES.strip().splitlines())
def test_same_output(pair: Pair, line: str) -> None:
    theirs, ours = pair.compare(line)
    assert (ours.status, ours.out) == (theirs.status, theirs.out), (theirs.err, ours.err)
    assert bool(ours.err) == bool(theirs.err), (theirs.err, ours.err)


def test_same_documents(pair: Pair) -> None:
    """JSON whose members Go orders otherwise, or that newer versions add to."""
    theirs, ours = (json.loads(pair.run(own, "containers info box").ok()) for own in PROGRAMS)
    assert ours.pop("SandboxID") == theirs.pop("SandboxID", "") == ""  # from containerd 1.7 on
    for document in (theirs, ours):
        document["Extensions"] = document["Extensions"] or None
    assert ours == theirs
    theirs, ours = (json.loads(pair.run(own, "oci spec").ok()) for own in PROGRAMS)
    masked = [set(document["linux"].pop("maskedPaths")) for document in (theirs, ours)]
    assert masked[1] - masked[0] == {"/sys/devices/virtual/powercap"}
    assert all(document.pop("ociVersion").startswith("1.0.2") for document in (theirs, ours))
    assert ours == theirs


def test_same_layer(pair: Pair) -> None:
    """The difference of a container to its image, as a tar of the same members."""
    pair.daemon.ctr("tasks", "exec", "--exec-id", "w", "box", "sh", "-c", "echo new > /made; rm /bin/busybox").ok()
    listings = []
    for own in PROGRAMS:
        words = ["snapshots", "diff", "box"]
        done = subprocess.run([*PROGRAMS[own], *pair.base, *words], capture_output=True, check=True)
        listing = subprocess.run(["tar", "tzf", "-"], input=done.stdout, capture_output=True, check=True)
        listings.append(sorted(listing.stdout.decode().split()))
    assert listings[0] == listings[1]
    assert "made" in listings[1]


def test_mount(pair: Pair) -> None:
    outs = []
    for own in PROGRAMS:
        target = f"{pair.daemon.base}/{own}"
        subprocess.run(["mkdir", target], check=True)
        mounted = pair.run(own, f"images mount {{image}} {target}").ok()
        assert subprocess.run(["ls", f"{target}/bin/busybox"], capture_output=True, check=False).returncode == 0
        unmounted = pair.run(own, f"images unmount --rm {target}").ok()
        outs.append((_normal(mounted), _normal(unmounted)))
        assert target not in pair.run(own, "snapshots ls").ok()
    assert outs[0] == outs[1]


def test_import(pair: Pair) -> None:
    """What it prints, and what is there then; with the image's other archive, that of `docker save`."""
    outs = []
    for own in PROGRAMS:
        done = pair.run(
            own, f"images import --no-unpack --index-name example.com/{own}:i {images.archive('busybox')}"
        )
        made = json.loads(pair.run(own, f"content get {_digest_of(pair, own)}").ok())
        outs.append((_normal(re.sub(r"\.\.\.done|\t.*", "", done.ok())).strip(), made))
        pair.run(own, f"images rm example.com/{own}:i").ok()
    assert outs[0][1] == outs[1][1]


def _digest_of(pair: Pair, own: str) -> str:
    listing = pair.run(own, f"images ls name==example.com/{own}:i").ok()
    return listing.splitlines()[1].split()[2]


def test_ingest(pair: Pair) -> None:
    """Each stores what it is given, and the other reads it."""
    for own, other in (("aaaa", "bbbb"), ("bbbb", "aaaa")):
        # Nothing holds the blob: a collection that other tests' deletions have called for may take it.
        wait_until(partial(_is_read_after_ingest, pair, own, other), timeout=60)


def _is_read_after_ingest(pair: Pair, own: str, other: str) -> bool:
    text = f"of {own}\n".encode()
    digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
    words = ["content", "ingest", "--expected-size", str(len(text)), "--expected-digest", digest, own]
    done = subprocess.run([*PROGRAMS[own], *pair.base, *words], input=text, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    return pair.run(other, f"content get {digest}").out == text.decode()


def test_profiles(pair: Pair) -> None:
    """As containerd serves them."""
    for command in ("block", "goroutines", "heap", "threadcreate", "profile -s 1s", "trace -s 1s"):
        lengths = []
        for own in PROGRAMS:
            words = ["pprof", "-d", f"{pair.daemon.base}/debug.sock", *command.split()]
            done = subprocess.run([*PROGRAMS[own], *pair.base, *words], capture_output=True, check=True)
            lengths.append(len(done.stdout))
        assert min(lengths) > 0, command


def test_attached(pair: Pair) -> None:
    """A task that was started without anybody to read its output, which the shim keeps until somebody does."""
    outs = []
    for own in PROGRAMS:
        directory = f"{pair.daemon.base}/fifos-{own}"
        words = [
            "run",
            "-d",
            "--fifo-dir",
            directory,
            IMAGE,
            f"{own}-a",
            "sh",
            "-c",
            "read x; echo got $x; exit 5",
        ]
        run([*PROGRAMS[own], *pair.base, *words], stdin=subprocess.DEVNULL).ok()
        attached = subprocess.Popen(
            [*PROGRAMS[own], *pair.base, "tasks", "attach", f"{own}-a"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, err = attached.communicate(b"typed\n", timeout=60 * PACE)
        outs.append((attached.returncode, out, bool(err)))
        pair.daemon.ctr("tasks", "rm", "-f", f"{own}-a")
        pair.daemon.ctr("containers", "rm", f"{own}-a").ok()
    assert outs[0] == outs[1] == (5, b"got typed\n", False)


def test_push_and_content_of_a_registry(pair: Pair, registry: Registry) -> None:
    """What each pushes the other fetches, and pieces of it come as they are."""
    manifest, layer = pair.names["manifest"], pair.names["layer"]
    for own, other in (("aaaa", "bbbb"), ("bbbb", "aaaa")):
        name = f"{registry.host}/{own}/box:1"
        pair.run(own, f"images push --plain-http {name} {IMAGE}").ok()
        pair.run(other, f"content fetch --plain-http {name}").ok()
        assert name in pair.run(own, "images ls -q").ok().split()
        listing = pair.run(other, f"content fetch-object --plain-http {name}").ok()
        assert layer in listing
        config = decode(images.busybox().blobs[manifest], Manifest).config.digest
        blob = pair.run("bbbb", f"content fetch-blob --plain-http {name} {config}").ok()  # newer than Debian's
        assert blob == pair.run(other, f"content get {config}").ok()
        pair.run(own, f"images rm {name}").ok()


def test_push_object(pair: Pair, registry: Registry) -> None:
    name = f"{registry.host}/object/box:1"
    pair.run("bbbb", f"content push-object --plain-http {name} {{manifest}} {OCI_MANIFEST}").ok()
    assert pair.names["layer"] in pair.run("aaaa", f"content fetch-object --plain-http {name}").ok()


def test_converted(pair: Pair) -> None:
    """The same manifest, layer by layer; its bytes are each program's own."""
    made = []
    for own in PROGRAMS:
        name = f"example.com/{own}:converted"
        digest = pair.run(own, f"images convert --uncompress --oci {{image}} {name}").ok().strip()
        made.append(json.loads(pair.run(own, f"content get {digest}").ok()))
        assert pair.run(own, f"run --rm {name} {own} echo runs").ok() == "runs\n"
        pair.run(own, f"images rm {name}").ok()
    assert made[0] == made[1]


def test_commands_of_newer_versions(pair: Pair) -> None:
    """Which Debian's ctr does not have."""
    assert pair.run("bbbb", "images usage {image}").ok().splitlines()[1].startswith(pair.names["top"])
    tree = pair.run("bbbb", "images inspect {image}").ok()
    assert f"@{pair.names['manifest']} " in tree.splitlines()[1]
    assert f"@{pair.names['layer']} " in tree
    assert json.loads(pair.run("bbbb", "info").ok())["uuid"]
    assert pair.run("bbbb", "deprecations list").ok() == ""
    assert "requires --all" in pair.run("bbbb", "images prune").err
    edited = pair.run("bbbb", "content edit --editor true {manifest}").ok().strip()
    assert edited == pair.names["manifest"]
