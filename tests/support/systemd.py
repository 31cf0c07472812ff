# SPDX-License-Identifier: Apache-2.0
"""systemd as process 1 of namespaces of its own, over a copy-on-write view of this machine's files."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from support.bundles import Result
from support.pace import PACE

SYSTEMD = "/lib/systemd/systemd"
_CHECKOUT = Path(__file__).parents[2]
# What systemd manages, and what a container's groups are in besides.
V1 = ("cpu,cpuacct", "cpuset", "memory", "pids", "blkio", "devices", "freezer")

# $1: work directory, $2: hybrid or unified. Ends by becoming systemd.
SCRIPT = r"""
set -e
W=$1 MODE=$2
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs $W/root
mkdir $W/root/upper $W/root/work $W/root/merged
R=$W/root/merged
mount -t overlay -o lowerdir=/,upperdir=$W/root/upper,workdir=$W/root/work overlay $R
mount -t proc proc $R/proc
# Else the namespace could reboot the machine.
[ ! -e $R/proc/sysrq-trigger ] || mount --bind /dev/null $R/proc/sysrq-trigger
mount -t sysfs -o ro sysfs $R/sys
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs $R/run
mount -t tmpfs -o mode=1777 tmpfs $R/tmp
# The checkout may be under /tmp, or on a file system of its own.
[ -e $R$CHECKOUT/pyproject.toml ] || { mkdir -p $R$CHECKOUT; mount --bind $CHECKOUT $R$CHECKOUT; }
mount -t tmpfs -o mode=755,nosuid tmpfs $R/dev
mkdir $R/dev/pts $R/dev/shm $R/dev/mqueue
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    IFS=: read name major minor <<EOF
$node
EOF
    mknod -m 666 $R/dev/$name c $major $minor
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts $R/dev/pts
ln -s pts/ptmx $R/dev/ptmx
ln -s /proc/self/fd $R/dev/fd
mount -t tmpfs tmpfs $R/dev/shm
: > $R/dev/console
mount --bind $W/console $R/dev/console
if [ $MODE = hybrid ]; then
    mount -t tmpfs -o mode=755 tmpfs $R/sys/fs/cgroup
    for controllers in $V1; do
        mkdir $R/sys/fs/cgroup/$controllers
        mount -t cgroup -o $controllers cgroup $R/sys/fs/cgroup/$controllers
    done
    mkdir $R/sys/fs/cgroup/systemd $R/sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup $R/sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 $R/sys/fs/cgroup/unified
    mount -o remount,ro tmpfs $R/sys/fs/cgroup
else
    mount -t cgroup2 cgroup2 $R/sys/fs/cgroup
fi
mkdir -p $R/run/systemd/system $R/run/systemd/system.conf.d
printf '[Manager]\nDefaultTimeoutStartSec=%s\n' $PATIENCE > $R/run/systemd/system.conf.d/test.conf
# A target of our own, so that nothing starts that is enabled on this machine.
cat > $R/run/systemd/system/orlop-test.target <<EOF
[Unit]
DefaultDependencies=no
EOF
# What a unit's default dependencies bring in would act on this machine: sysctls, modules, devices.
for wanted in $R/usr/lib/systemd/system/*.target.wants/* $R/etc/systemd/system/*.target.wants/*; do
    unit=${wanted##*/}
    case $unit in dbus.*|systemd-journald*|*'*'*) ;; *) ln -sf /dev/null $R/etc/systemd/system/$unit ;; esac
done
: > $R/etc/fstab
rm -f $R/etc/machine-id
echo b08dfa6083e7567a1921a715000001fb > $R/etc/machine-id
cd $R
mkdir -p tmp/.old
pivot_root . tmp/.old
umount -l /tmp/.old
exec env -i container=orlop-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=orlop-test.target --show-status=0 --log-target=console --log-level=notice
"""


def why_not(mode: str) -> str:
    """What keeps systemd from being tested here in this mode; nothing if it can be."""
    if os.getuid() != 0:
        return "needs root"
    if not os.path.exists(SYSTEMD) or shutil.which("systemctl") is None:
        return "systemd is not installed"
    if mode == "hybrid" and not os.path.isdir("/sys/fs/cgroup/memory"):
        return "no control groups version 1 here"
    if mode == "unified" and _unified_mount() is None:
        return "no control groups version 2 here"
    return ""


class Systemd:
    """A running systemd; `mode` is `hybrid` (version 1 controllers with limits) or `unified`."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.work = tempfile.mkdtemp(prefix="orlop-systemd-")
        self._groups = self._make_groups()
        os.mkdir(f"{self.work}/root")
        with open(f"{self.work}/console", "w", encoding="utf-8"):
            pass
        self._outer = self._launch()
        try:
            self.pid = self._await_child()
            self.root = f"/proc/{self.pid}/root"
            self._await_target()
        except BaseException:
            self.close()
            raise

    def __call__(self, *command: str, check: bool = True) -> Result:
        """Run a command inside."""
        # Files, not pipes, for the output: a container that stays keeps them open.
        with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as err:
            done = subprocess.run(
                ["nsenter", "-t", str(self.pid), "-m", "-p", "-u", "-i", "-n", "-C", "--", "env", "-i",
                 "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", *command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=60 * PACE, check=False,
            )  # fmt: skip
            out.seek(0)
            err.seek(0)
            result = Result(done.returncode, out.read().decode(), err.read().decode())
        if check:
            result.ok()
        return result

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit, as systemctl shows them."""
        out = self("systemctl", "show", unit, "-p", ",".join(properties)).out
        return dict(line.split("=", 1) for line in out.splitlines())

    def read(self, path: str) -> str:
        """A file, as seen inside."""
        return self("cat", path).out

    def close(self) -> None:
        """End it with all that runs in it, and remove what was made for it."""
        if self._outer.poll() is None:
            with contextlib.suppress(AttributeError, ProcessLookupError):
                os.kill(self.pid, 9)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._outer.wait(10 * PACE)
        if self._outer.poll() is None:
            self._outer.kill()
            self._outer.wait()
        for path in self._groups:
            for below, _, _ in os.walk(path, topdown=False):
                for _ in range(200):  # processes that are on their way out keep their group
                    with contextlib.suppress(OSError):
                        os.rmdir(below)
                    if not os.path.isdir(below):
                        break
                    time.sleep(0.01)
        shutil.rmtree(self.work)
        left = [path for path in self._groups if os.path.isdir(path)]
        assert not left, f"control groups left: {left}"

    def _make_groups(self) -> list[str]:
        name = os.path.basename(self.work)
        unified = _unified_mount()
        groups = [f"{unified}/{name}"] if unified else []
        if self.mode == "hybrid":
            groups += [f"/sys/fs/cgroup/{controllers}/{name}" for controllers in _present()]
            if os.path.isdir("/sys/fs/cgroup/systemd"):
                groups.append(f"/sys/fs/cgroup/systemd/{name}")
        for path in groups:
            os.mkdir(path)
            if "/cpuset/" in path:
                for file in ("cpuset.cpus", "cpuset.mems"):
                    with open(f"{path}/../{file}", encoding="ascii") as above:
                        value = above.read()
                    with open(f"{path}/{file}", "w", encoding="ascii") as here:
                        here.write(value)
                with open(f"{path}/cgroup.clone_children", "w", encoding="ascii") as here:
                    here.write("1")
        return groups

    def _launch(self) -> subprocess.Popen[bytes]:
        # Only what becomes systemd is in the groups: on version 2 one with processes hands no controllers on.
        enter = "".join(f"echo 0 > {path}/cgroup.procs; " for path in self._groups)
        console = open(f"{self.work}/console", "ab")  # noqa: SIM115
        with console:
            return subprocess.Popen(
                ["unshare", "-m", "-p", "-u", "-i", "-n", "-f", "sh", "-ec",
                 enter + 'exec unshare -C sh -c "$0" sh "$@"', SCRIPT, self.work, self.mode],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                env=os.environ
                | {"V1": " ".join(_present()), "CHECKOUT": str(_CHECKOUT), "PATIENCE": str(int(90 * PACE))},
            )  # fmt: skip

    def _await_child(self) -> int:
        """The process id of systemd: the only child of unshare, once it has become systemd."""
        deadline = time.monotonic() + 20 * PACE
        while time.monotonic() < deadline and self._outer.poll() is None:
            with contextlib.suppress(OSError, IndexError, ValueError):
                with open(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children", encoding="ascii") as file:
                    pid = int(file.read().split()[0])
                with open(f"/proc/{pid}/comm", encoding="ascii") as file:
                    if file.read() == "systemd\n":
                        return pid
            time.sleep(0.02)
        raise AssertionError(f"systemd does not start: {self._console()}")

    def _await_target(self) -> None:
        deadline = time.monotonic() + 20 * PACE
        while time.monotonic() < deadline:
            if self("systemctl", "is-active", "-q", "orlop-test.target", check=False).status == 0:
                return
            time.sleep(0.02)
        raise AssertionError(f"systemd does not get ready: {self._console()}")

    def _console(self) -> str:
        with open(f"{self.work}/console", encoding="utf-8", errors="replace") as file:
            return file.read()[-2000:]


def _unified_mount() -> str | None:
    with open("/proc/self/mountinfo", encoding="utf-8") as lines:
        return next((line.split()[4] for line in lines if " - cgroup2 " in line), None)


def _present() -> list[str]:
    """The version 1 hierarchies here of those that are wanted; `cpu,cpuacct` may be two."""
    found: list[str] = []
    for controllers in V1:
        if os.path.ismount(f"/sys/fs/cgroup/{controllers}"):
            found.append(controllers)
        else:
            found += [one for one in controllers.split(",") if os.path.ismount(f"/sys/fs/cgroup/{one}")]
    return found
