# SPDX-License-Identifier: Apache-2.0
"""The daemon dies at each of its failpoints, in the middle of what real clients ask for, and is started again.

Then nothing is lost, nothing is left that no record owns, and the operation can be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from support import images, sandbox_shim
from support.containerd import CTR, Daemon, Result, mounts_below, processes_about, run, wait_until
from support.containerd_state import TASKS, assert_settled, report_of, shims

from orlop.api.types_pb2 import Mount, Sandbox
from orlop.containerd import failpoints
from orlop.containerd.client import Client
from orlop.errdefs import InvalidArgumentError, NotFoundError, OrlopError

pytestmark = pytest.mark.root

IMAGE = "docker.io/library/busybox:latest"
LAYERS = "docker.io/library/layers:latest"
ORLOP_CTR = [sys.executable, "-P", "-m", "orlop.ctr.main"]
RUNTIMES = {"orlop": "io.containerd.orlop.v2", "runc": "io.containerd.runc.v2"}
ROOT_LABEL = "containerd.io/gc.root"
SHIMS_PATH = {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}


class Site:
    """A daemon that has busybox, the ctr that is used on it, and the runtime of its tasks."""

    def __init__(self, daemon: Daemon, tool: str, runtime: str) -> None:
        self.daemon = daemon
        self.tool = [CTR] if tool == "ctr" else ORLOP_CTR
        self.runtime = RUNTIMES[runtime]

    def ctr(self, *arguments: str, **options: object) -> Result:
        """Run ctr."""
        base = [*self.tool, "-a", self.daemon.address, "-n", self.daemon.namespace]
        return run([*base, *arguments], **options)

    def start(self, points: str = "") -> None:
        """Start the daemon, with failpoints."""
        self.daemon.start(environment={**SHIMS_PATH, failpoints.VARIABLE: points})

    def await_death(self) -> None:
        """The daemon has killed itself."""
        assert self.daemon.process is not None
        try:
            assert self.daemon.process.wait(10) == -signal.SIGKILL
        except subprocess.TimeoutExpired:
            raise AssertionError("the point was not reached") from None
        self.daemon.process = None

    def tasks(self) -> list[str]:
        """The ids of all tasks."""
        return self.ctr("tasks", "ls", "-q").ok().split()

    def create(self, id: str, *arguments: str) -> None:
        """Create a container."""
        self.ctr("containers", "create", "--runtime", self.runtime, IMAGE, id, *arguments).ok()

    def run(self, id: str, *arguments: str) -> None:
        """Create a container and start its task."""
        self.create(id, *arguments)
        self.ctr("tasks", "start", "-d", id).ok()

    def call(self, work: Callable[[Client], object]) -> None:
        """Use orlop's client library."""

        async def main() -> None:
            async with Client(self.daemon.address, self.daemon.namespace) as client:
                await work(client)  # type: ignore[misc]

        asyncio.run(main())


def nothing(_: Site) -> None:
    """No preparation is needed, or nothing is to be repeated."""


class Scenario(NamedTuple):
    """`prepare` runs before the daemon is armed, `act` kills it, `again` must succeed afterwards."""

    prepare: Callable[[Site], None]
    act: Callable[[Site], None]
    again: Callable[[Site], None]


def import_layers(site: Site) -> None:
    site.ctr("images", "import", str(images.archive("layers")))


def import_again(site: Site) -> None:
    site.ctr("images", "import", str(images.archive("layers"))).ok()
    site.ctr("run", "--rm", "--runtime", site.runtime, LAYERS, "probe", "/bin/busybox", "true").ok()


def begin_ingest(site: Site) -> None:
    async def work(client: Client) -> None:
        async with client.content.writer("half", size=1000) as writer:
            await writer.write(b"x" * 500)

    site.call(work)


def abort(site: Site) -> None:
    with contextlib.suppress(OrlopError):
        site.call(lambda client: client.content.abort("half"))


def abort_again(site: Site) -> None:
    async def work(client: Client) -> None:
        with contextlib.suppress(NotFoundError):
            await client.content.abort("half")
        assert await client.content.statuses() == []
        digest = await client.content.write_blob("half", b"whole", images.digest_of(b"whole"), {})
        assert digest is None or digest
        await client.content.delete(images.digest_of(b"whole"))

    site.call(work)


BLOB = images.digest_of(b"a blob")


def write_blob(site: Site) -> None:
    site.call(lambda client: client.content.write_blob("blob", b"a blob", BLOB, {ROOT_LABEL: "yes"}))


def remove_blob(site: Site) -> None:
    site.ctr("content", "rm", BLOB)


def remove_blob_again(site: Site) -> None:
    remove_blob(site)
    assert BLOB not in site.ctr("content", "ls", "-q").ok().split()


def prepare_snapshot(site: Site) -> None:
    site.ctr("snapshots", "prepare", "own", chain(site)).ok()


def chain(site: Site) -> str:
    image = images.busybox().image
    assert image is not None
    return image.rootfs.diff_ids[0]


def remove_snapshot(site: Site) -> None:
    site.ctr("snapshots", "rm", "own")


def remove_snapshot_again(site: Site) -> None:
    remove_snapshot(site)
    prepare_snapshot(site)
    site.ctr("snapshots", "rm", "own").ok()


def diff(site: Site) -> None:
    command = [*site.tool, "-a", site.daemon.address, "-n", site.daemon.namespace, "snapshots", "diff", "own"]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    assert (len(done.stdout) > 10) is (done.returncode == 0)


def diff_again(site: Site) -> None:
    diff(site)
    site.ctr("snapshots", "rm", "own").ok()


def remove_image(site: Site) -> None:
    site.ctr("images", "rm", IMAGE)


def remove_image_again(site: Site) -> None:
    site.ctr("images", "import", str(images.archive("busybox"))).ok()
    site.ctr("images", "rm", "--sync", IMAGE).ok()
    assert report_of(site.daemon).counts["blobs"] == 0


def orphan_everything(site: Site) -> None:
    """An image is removed, and the daemon dies before it collects what that leaves."""
    site.daemon.stop()
    site.start("image.delete.after_record=kill")
    remove_image(site)
    site.await_death()
    site.start()


def create_lease(site: Site) -> None:
    site.ctr("leases", "create", "--id", "own")


def lease_again(site: Site) -> None:
    site.ctr("leases", "delete", "own")
    site.ctr("leases", "create", "--id", "own").ok()
    site.ctr("leases", "delete", "own").ok()


def delete_lease(site: Site) -> None:
    site.ctr("leases", "delete", "own")


def create_container(site: Site) -> None:
    site.ctr("containers", "create", "--runtime", site.runtime, IMAGE, "x", "sleep", "100")


def create_container_again(site: Site) -> None:
    if "x" in site.ctr("containers", "ls", "-q").ok().split():
        site.ctr("containers", "rm", "x").ok()
    drop_leases(site)  # of the client that saw the daemon die: it holds the new container's snapshot
    create_container(site)
    site.ctr("containers", "rm", "x").ok()


def prepare_container(site: Site) -> None:
    site.create("x", "sleep", "100")


def remove_container(site: Site) -> None:
    site.ctr("containers", "rm", "x")


def remove_container_again(site: Site) -> None:
    remove_container(site)
    with contextlib.suppress(AssertionError):
        site.ctr("snapshots", "rm", "x").ok()  # ctr removes it after the container
    prepare_container(site)
    site.ctr("containers", "rm", "x").ok()


def start_task(site: Site) -> None:
    site.ctr("tasks", "start", "-d", "x")


def start_task_again(site: Site) -> None:
    if "x" in site.tasks():
        site.ctr("tasks", "rm", "-f", "x").ok()
    site.ctr("tasks", "start", "-d", "x").ok()
    assert "x" in site.tasks()


def run_task(site: Site) -> None:
    site.run("x", "sleep", "100")


def execute(site: Site) -> None:
    # Go's client waits for the end of its streams, which the shim has opened if the daemon dies after the call.
    with contextlib.suppress(subprocess.TimeoutExpired):
        site.ctr("tasks", "exec", "--exec-id", "e", "x", "true", timeout=3)


def execute_again(site: Site) -> None:
    assert site.ctr("tasks", "exec", "--exec-id", "f", "x", "sh", "-c", "exit 7").status == 7
    # The first may be left in the shim: its client was told nothing.
    site.ctr("tasks", "rm", "--exec-id", "e", "x")
    assert site.ctr("tasks", "exec", "--exec-id", "e", "x", "sh", "-c", "exit 8").status == 8


def kill_task(site: Site) -> None:
    site.ctr("tasks", "kill", "-s", "KILL", "x")


def kill_task_again(site: Site) -> None:
    async def work(client: Client) -> None:
        with contextlib.suppress(NotFoundError):  # the first signal has done its work
            await client.tasks.kill("x", signal.SIGKILL)
        assert (await client.tasks.wait("x")).exit_status == 137

    site.call(work)
    site.ctr("tasks", "rm", "x")
    assert "x" not in site.tasks()


def end_task(site: Site) -> None:
    run_task(site)
    site.ctr("tasks", "kill", "-s", "KILL", "x").ok()
    site.call(lambda client: client.tasks.wait("x"))


def delete_task(site: Site) -> None:
    site.ctr("tasks", "rm", "x")


def delete_task_again(site: Site) -> None:
    if "x" in site.tasks():
        site.ctr("tasks", "rm", "x")
    assert "x" not in site.tasks()
    site.ctr("tasks", "start", "-d", "x").ok()


def kill_shim(site: Site) -> None:
    bundle = f"{site.daemon.state}/{TASKS}/{site.daemon.namespace}/x"
    (shim,) = [pid for pid in shims(site.daemon) if os.readlink(f"/proc/{pid}/cwd") == bundle]
    os.kill(shim, signal.SIGKILL)


def restart_task(site: Site) -> None:
    assert "x" not in site.tasks()
    site.ctr("tasks", "start", "-d", "x").ok()


def activate_mount(site: Site) -> None:
    tmpfs = Mount(type="tmpfs", source="tmpfs")
    with contextlib.suppress(OrlopError):
        site.call(lambda client: client.mounts.activate("m", [tmpfs], temporary=True))


def deactivate_mount(site: Site) -> None:
    with contextlib.suppress(OrlopError):
        site.call(lambda client: client.mounts.deactivate("m"))


def mount_again(site: Site) -> None:
    deactivate_mount(site)
    assert mounts_below(site.daemon.state) == []
    activate_mount(site)
    assert len(mounts_below(site.daemon.state)) == 1
    site.call(lambda client: client.mounts.deactivate("m"))


def live_in_sandbox(site: Site) -> None:
    runtime = Sandbox.Runtime(name=sandbox_shim.install(site.daemon.base))

    async def work(client: Client) -> None:
        sandbox = Sandbox(sandbox_id="s", runtime=runtime)
        await client.sandboxes.create_record(sandbox)
        await client.sandboxes.create(sandbox)
        await client.sandboxes.shutdown("s")
        await client.sandboxes.delete_record("s")

    with contextlib.suppress(OrlopError):
        site.call(work)


def sandbox_again(site: Site) -> None:
    async def work(client: Client) -> None:
        with contextlib.suppress(NotFoundError):
            await client.sandboxes.shutdown("s")
        with contextlib.suppress(NotFoundError):
            await client.sandboxes.delete_record("s")

    site.call(work)
    live_in_sandbox(site)
    shim = f"{site.daemon.state}/io.containerd.sandbox.controller.v1.shim"
    assert os.listdir(f"{shim}/{site.daemon.namespace}") == []
    wait_until(lambda: not list(processes_about(shim)))


IMPORT = Scenario(nothing, import_layers, import_again)
CREATE_TASK = Scenario(prepare_container, start_task, start_task_again)
DELETE_TASK = Scenario(end_task, delete_task, delete_task_again)
EXEC = Scenario(run_task, execute, execute_again)
SCENARIOS = {
    "content.write.": IMPORT,
    "content.commit.": IMPORT,
    "content.abort.": Scenario(begin_ingest, abort, abort_again),
    "content.delete.": Scenario(write_blob, remove_blob, remove_blob_again),
    "snapshot.prepare.": IMPORT,
    "snapshot.commit.": IMPORT,
    "snapshot.remove.": Scenario(prepare_snapshot, remove_snapshot, remove_snapshot_again),
    "diff.apply.": IMPORT,
    "diff.compare.": Scenario(prepare_snapshot, diff, diff_again),
    "image.create.": IMPORT,
    "image.delete.": Scenario(nothing, remove_image, remove_image_again),
    "lease.create.": Scenario(nothing, create_lease, lease_again),
    "lease.delete.": Scenario(create_lease, delete_lease, lease_again),
    "container.create.": Scenario(nothing, create_container, create_container_again),
    "container.delete.": Scenario(prepare_container, remove_container, remove_container_again),
    "sandbox.": Scenario(nothing, live_in_sandbox, sandbox_again),
    "mount.activate.": Scenario(nothing, activate_mount, mount_again),
    "mount.deactivate.": Scenario(activate_mount, deactivate_mount, mount_again),
    "task.create.": CREATE_TASK,
    "task.start.": CREATE_TASK,
    "task.exec.": EXEC,
    "task.delete_process.": EXEC,
    "task.kill.": Scenario(run_task, kill_task, kill_task_again),
    "task.delete.": DELETE_TASK,
    "task.bury.": Scenario(run_task, kill_shim, restart_task),
    "gc.": Scenario(orphan_everything, nothing, remove_image_again),
    "start.": Scenario(run_task, nothing, start_task_again),
}


# Those of other processes' snapshotters need one: test_containerd_proxies.
POINTS = [point for point in failpoints.POINTS if not point.startswith("snapshot.remote.")]


def scenario_of(point: str) -> Scenario:
    (found,) = [scenario for prefix, scenario in SCENARIOS.items() if point.startswith(prefix)]
    return found


def drop_leases(site: Site) -> None:
    for lease in site.ctr("leases", "ls", "-q").ok().split():
        site.ctr("leases", "delete", "--sync", lease).ok()


def clear(site: Site) -> None:
    """Remove everything by the API: then nothing is left at all."""
    for id in site.tasks():
        site.ctr("tasks", "rm", "-f", id).ok()
    for id in site.ctr("containers", "ls", "-q").ok().split():
        site.ctr("containers", "rm", id).ok()
    drop_leases(site)
    for name in site.ctr("images", "ls", "-q").ok().split():
        site.ctr("images", "rm", "--sync", name).ok()
    assert_settled(site.daemon)
    left = {what: count for what, count in report_of(site.daemon).counts.items() if count}
    assert not left, f"{left}\n{site.ctr('snapshots', 'ls').out}"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A root with busybox in it, and the namespace that has it."""
    daemon = Daemon("orlop").start()
    daemon.ctr("images", "import", str(images.archive("busybox"))).ok()
    daemon.stop()
    yield daemon.root, daemon.namespace
    daemon.remove()


@pytest.fixture
def site(template: tuple[str, str], request: pytest.FixtureRequest) -> Iterator[Site]:
    """A daemon that has busybox, not yet started."""
    root, namespace = template
    daemon = Daemon("orlop")
    daemon.namespace = namespace
    subprocess.run(["cp", "-a", root, daemon.root], check=True)
    tool, runtime = getattr(request, "param", ("ctr", "orlop"))
    site = Site(daemon, tool, runtime)
    yield site
    if daemon.process is None:  # a failed test: what it left running is removed by a daemon
        site.start()
    daemon.remove()


def die_at(site: Site, point: str) -> None:
    scenario = scenario_of(point)
    uses_tasks = point.startswith(("task.", "start."))
    site.start()
    if uses_tasks:
        site.run("bystander", "sleep", "1000")
    scenario.prepare(site)
    before = bystander(site) if uses_tasks else []
    site.daemon.kill()
    with ThreadPoolExecutor(1) as client:
        if point.startswith("start."):
            with pytest.raises(AssertionError, match="is not ready"):
                site.start(f"{point}=kill")
        else:
            site.start(f"{point}=kill")
        acting = client.submit(scenario.act, site)
        site.await_death()
        site.start()
        acting.result(30)  # some clients go on as soon as the daemon is back, others give up
    assert_settled(site.daemon)
    if uses_tasks:
        assert bystander(site) == before
    scenario.again(site)
    assert_settled(site.daemon)
    clear(site)


def bystander(site: Site) -> list[str]:
    """What is told of the task that has nothing to do with it all: id, pid, state."""
    (line,) = [line for line in site.ctr("tasks", "ls").ok().splitlines() if line.startswith("bystander")]
    assert line.split()[2] == "RUNNING"
    return line.split()


@pytest.mark.parametrize("point", POINTS)
def test_daemon_dies_at(site: Site, point: str) -> None:
    die_at(site, point)


@pytest.mark.long
@pytest.mark.parametrize("site", [("orlop-ctr", "orlop"), ("ctr", "runc")], indirect=True, ids="-".join)
@pytest.mark.parametrize("point", POINTS)
def test_daemon_dies_with_other_parts_at(site: Site, point: str) -> None:
    if site.runtime == RUNTIMES["runc"] and not point.startswith(("task.", "start.")):
        pytest.skip("no runtime takes part")
    if site.tool is ORLOP_CTR and point.startswith("diff.compare."):
        pytest.skip("orlop-ctr makes no diffs")
    die_at(site, point)


def test_every_point_is_somewhere() -> None:
    """The list and the code name the same points, each once."""
    source = Path(failpoints.__file__).parent
    named = [
        name
        for path in source.rglob("*.py")
        if path.name != "failpoints.py"
        for name in re.findall(r'failpoint\("([a-z_.]+)"\)', path.read_text(encoding="utf-8"))
    ]
    assert set(named) == set(failpoints.POINTS)
    assert all(scenario_of(point) for point in POINTS)


@pytest.mark.parametrize("text", ["nowhere=kill", "gc.after_sweep=explode", "gc.after_sweep=kill:x"])
def test_bad_points(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=failpoints.VARIABLE):
        failpoints.armed(text)


def test_counted_points() -> None:
    reach = failpoints.armed("gc.after_sweep=fail:2,gc.after_record=fail")
    reach("gc.after_sweep")
    with pytest.raises(OrlopError, match=r"gc\.after_sweep"):
        reach("gc.after_sweep")
    reach("gc.after_sweep")
    with pytest.raises(OrlopError):
        reach("gc.after_record")
