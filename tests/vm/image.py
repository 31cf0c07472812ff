# SPDX-License-Identifier: Apache-2.0
"""Makes the disk of the test machine, of Debian packages, and its initial RAM disk."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys

_PACKAGES = """
base-files base-passwd bash busybox-static ca-certificates coreutils crun dash dbus dbus-daemon diffutils findutils
curl grep gzip hostname iproute2 iptables kmod e2fsprogs libcap2-bin libseccomp2 libstdc++6 mount netcat-openbsd
nftables passwd procps python3 python3.11 runc sed systemd systemd-sysv tar util-linux debianutils strace
criu apparmor docker.io containerd uidmap xfsprogs
"""
# What packages and their scripts make outside of their lists of files.
TREES = ("usr/lib/python3.11", "etc/alternatives", "etc/ssl/certs")
FILES = (
    "etc/passwd", "etc/group", "etc/nsswitch.conf", "etc/ld.so.cache", "etc/protocols", "etc/services",
    "usr/local/bin/docker",
)  # fmt: skip
LEFT_OUT = re.compile(r"^/usr/share/(doc|man|locale|info|lintian|bug)/|^/(proc|sys|dev|run|tmp|boot)(/|$)|/\.$")
_MODULES = (
    "fs/overlayfs fs/fuse fs/nls fs/xfs net drivers/net/veth.ko drivers/net/dummy.ko drivers/net/macvlan.ko"
    " drivers/net/ipvlan drivers/net/vxlan drivers/net/tun.ko fs/quota drivers/block/loop.ko"
    " lib crypto arch/x86/crypto"
)
_VIRTIO = (
    "virtio/virtio_ring virtio/virtio virtio/virtio_pci_modern_dev virtio/virtio_pci_legacy_dev virtio/virtio_pci"
    " block/virtio_blk"
)
INITRD = """#!/bin/sh
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*.ko; do /bin/busybox insmod "$module"; done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 200 ]; do /bin/busybox sleep 0.05; tries=$((tries + 1)); done
/bin/busybox mount -t ext4 -o rw,noatime /dev/vda /root && /bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /init
"""
HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(os.path.dirname(HERE))


def closure(packages: list[str], downloaded: list[str]) -> list[str]:
    """The installed ones of these packages, and what they and the downloaded ones among them depend on."""
    form = "${binary:Package}\t${Pre-Depends}, ${Depends}\t${Provides}\n"
    installed = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True)
    real = {line.split(":")[0].split("\t")[0] for line in installed.stdout.splitlines()}
    lines = installed.stdout
    for path in downloaded:
        shown = ["dpkg-deb", "-W", f"--showformat={form.replace('binary:', '')}", path]
        lines += subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    depends: dict[str, set[str]] = {}
    for line in lines.splitlines():
        name, needs, provides = line.split("\t")
        names = {part.split()[0].split(":")[0] for part in re.split(r"[,|]", needs) if part.strip()}
        plain = name.split(":")[0]
        depends.setdefault(plain, set()).update(names)
        for part in provides.split(","):
            if part.strip():
                depends.setdefault(part.split()[0], set()).add(plain)
    found: set[str] = set()
    waiting = list(packages)
    while waiting:
        package = waiting.pop().split(":")[0]
        if package in depends and package not in found:
            found.add(package)
            waiting += depends[package]
    return sorted(found & real)


def copy(source: str, root: str) -> None:
    """Copy one file, link or empty directory to the same place, in the merged /usr, below `root`."""
    directory, name = os.path.split(source)
    source = os.path.join(os.path.realpath(directory), name)
    target = root + source
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.isdir(source) and not os.path.islink(source):
        os.makedirs(target, exist_ok=True)
    elif os.path.lexists(source) and not os.path.lexists(target):
        shutil.copy2(source, target, follow_symlinks=False)


def add_user(root: str, name: str) -> None:
    """The user that an installation would have made."""
    with open(f"{root}/etc/passwd", "r+", encoding="utf-8") as users:
        if f"{name}:" not in users.read():
            users.write(f"{name}:x:998:998::/nonexistent:/usr/sbin/nologin\n")
            with open(f"{root}/etc/group", "a", encoding="utf-8") as groups:
                groups.write(f"{name}:x:998:\n")


def fill(root: str, kernel: str, work: str) -> None:
    """The machine's file system."""
    for name in ("bin", "sbin", "lib", "lib64"):
        os.makedirs(f"{root}/usr/{name}")
        os.symlink(f"usr/{name}", f"{root}/{name}")
    for name in ("proc", "sys", "dev", "run", "tmp", "root", "var/tmp", "var/lib", "etc"):
        os.makedirs(f"{root}/{name}")
    without = shutil.ignore_patterns("doc", "man", "locale", "info", "lintian", "bug")
    shutil.copytree(f"{work}/extra", root, symlinks=True, dirs_exist_ok=True, ignore=without)
    for tree in (*TREES, f"{CHECKOUT}/.venv".lstrip("/")):
        without = shutil.ignore_patterns(
            "test", "idlelib", "tkinter", "lib2to3", "ensurepip", "pydoc_data", "mypy*"
        )
        shutil.copytree(f"/{tree}", f"{root}/{tree}", symlinks=True, dirs_exist_ok=True, ignore=without)
    packages = closure(_PACKAGES.split(), glob.glob(f"{work}/debs/*.deb"))
    listing = subprocess.run(["dpkg", "-L", *packages], capture_output=True, text=True, check=True).stdout
    for path in listing.splitlines():
        if path.startswith("/") and not LEFT_OUT.search(path):
            copy(path, root)
    for path in FILES:
        if os.path.exists(f"/{path}"):
            copy(f"/{path}", root)
    for directory in ("/usr/bin", "/usr/sbin"):
        for entry in os.scandir(directory):
            if entry.is_symlink() and os.readlink(entry.path).startswith("/etc/alternatives/"):
                copy(entry.path, root)
    add_user(root, "messagebus")
    (version,) = os.listdir(f"{kernel}/lib/modules")
    source, target = f"{kernel}/lib/modules/{version}", f"{root}/usr/lib/modules/{version}"
    for part in _MODULES.split():
        if os.path.isdir(f"{source}/kernel/{part}"):
            shutil.copytree(f"{source}/kernel/{part}", f"{target}/kernel/{part}", dirs_exist_ok=True)
        elif os.path.exists(f"{source}/kernel/{part}"):
            os.makedirs(os.path.dirname(f"{target}/kernel/{part}"), exist_ok=True)
            shutil.copy(f"{source}/kernel/{part}", f"{target}/kernel/{part}")
    for entry in os.scandir(source):
        if entry.name.startswith("modules."):
            shutil.copy(entry.path, target)
    subprocess.run(["depmod", "-b", root, version], check=True)
    with open(f"{root}/etc/hosts", "w", encoding="ascii") as file:
        file.write("127.0.0.1 localhost orlop-vm\n")
    shutil.copy(f"{HERE}/init", f"{root}/init")
    os.chmod(f"{root}/init", 0o755)


def make_initrd(work: str, kernel: str) -> None:
    """The modules that reach the disk, and a busybox."""
    tree = f"{work}/initrd"
    shutil.rmtree(tree, ignore_errors=True)
    for name in ("bin", "modules", "dev", "root"):
        os.makedirs(f"{tree}/{name}")
    shutil.copy("/bin/busybox", f"{tree}/bin/busybox")
    os.symlink("busybox", f"{tree}/bin/sh")
    (version,) = os.listdir(f"{kernel}/lib/modules")
    for order, module in enumerate(_VIRTIO.split()):
        source = f"{kernel}/lib/modules/{version}/kernel/drivers/{module}.ko"
        shutil.copy(source, f"{tree}/modules/{order}-{os.path.basename(module)}.ko")
    with open(f"{tree}/init", "w", encoding="ascii") as file:
        file.write(INITRD)
    os.chmod(f"{tree}/init", 0o755)
    subprocess.run("find . | cpio --quiet -o -H newc > ../initrd.cpio", shell=True, cwd=tree, check=True)
    shutil.rmtree(tree)


def main() -> None:
    """Make root.img and initrd.cpio in the work folder."""
    work = sys.argv[1]
    kernel, root = f"{work}/kernel", f"{work}/root"
    print("making the machine's disk", flush=True)
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(root)
    fill(root, kernel, work)
    image = f"{work}/root.img"
    if os.path.exists(image):
        os.unlink(image)
    with open(image, "wb") as file:
        file.truncate(3 << 30)
    features = "^has_journal,^metadata_csum"
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-O", features, "-E", "lazy_itable_init=1", "-m", "0", "-d", root, image],
        check=True,
    )
    shutil.rmtree(root)
    make_initrd(work, kernel)


if __name__ == "__main__":
    main()
