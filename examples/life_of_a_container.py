# SPDX-License-Identifier: Apache-2.0
"""The whole life of a container through orlop.libcontainer, with busybox as its root filesystem.

Usage: life_of_a_container.py [directory]. As an ordinary user it has no control groups, so nothing is paused,
limited or counted.
"""

import os
import shutil
import signal
import sys
import tempfile

from orlop.libcontainer import Container, CreateOptions, ExecOptions, Stdio
from orlop.oci.runtime import Memory, Pids, Process, Resources
from orlop.runc.spec import example


def main() -> int:
    """Make the directory of a bundle, and live through a container of it."""
    directory = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="orlop-example-")
    try:
        make_rootfs(f"{directory}/rootfs")
        live(directory)
    finally:
        shutil.rmtree(directory)
    return 0


def make_rootfs(path: str) -> None:
    """A root filesystem of one program under two names."""
    os.makedirs(f"{path}/bin")
    shutil.copy("/bin/busybox", f"{path}/bin/busybox")
    for name in ("sh", "sleep"):
        os.symlink("busybox", f"{path}/bin/{name}")


def live(bundle: str) -> None:
    """Create … delete."""
    privileged = os.geteuid() == 0
    spec = example(rootless=not privileged)
    assert spec.process is not None
    spec.process.terminal = False
    spec.process.args = ["sh", "-c", "trap 'exit 7' TERM; echo started; while :; do sleep 0.1; done"]

    # The process gets descriptors of ours; the container waits for its start until we say so.
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    streams = Stdio(null, writer, writer)
    container = Container.create(f"{bundle}/state", "example", bundle, spec, CreateOptions(stdio=streams))
    print("after create:", container.status())

    container.start()
    print("its output:", os.read(reader, 100).decode().strip())
    print("after start:", container.status())

    # Any other process may look a container up by its state directory.
    print("found again:", [found.id for found in Container.list(f"{bundle}/state")])

    process = Process(args=["sh", "-c", "echo $$; exit 3"], cwd="/", env=["PATH=/bin"])
    executed = container.exec(process, ExecOptions(stdio=streams))
    _, status = os.waitpid(executed.pid, 0)
    code, said = os.waitstatus_to_exitcode(status), os.read(reader, 100).decode().strip()
    print(f"exec: exit code {code} as process {said}")

    if privileged:
        container.pause()
        print("after pause:", container.status())
        container.resume()
        container.update(Resources(memory=Memory(limit=64 << 20), pids=Pids(limit=32)))
        stats = container.stats()
        assert stats.pids is not None
        print("processes:", stats.pids.current, "of", stats.pids.limit)

    container.signal(signal.SIGTERM)
    # Init is a child of whoever created the container: the exit code is ours to collect.
    _, status = os.waitpid(container.init_pid, 0)
    print("after the signal:", container.status(), "with exit code", os.waitstatus_to_exitcode(status))
    container.delete()
    print("after delete:", Container.list(f"{bundle}/state"))
    for fd in (reader, writer, null):
        os.close(fd)


if __name__ == "__main__":
    raise SystemExit(main())
