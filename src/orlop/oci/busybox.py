# SPDX-License-Identifier: Apache-2.0
"""The image busybox:latest made of this machine's static busybox, for where no registry can be reached.

`python -m orlop.oci.busybox > busybox.tar` writes an archive for `docker load`. The image has the users, groups,
directories and defaults of Docker's official one.
"""

import os
import subprocess
import sys

from orlop.errdefs import NotFoundError, OrlopError
from orlop.oci.build import BuiltImage, LayerBuilder, build_image, write_archive
from orlop.oci.image import History, ImageConfig

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_PASSWD = b"""root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""

_GROUPS = {
    "root": 0,
    "daemon": 1,
    "bin": 2,
    "sys": 3,
    "adm": 4,
    "tty": 5,
    "disk": 6,
    "lp": 7,
    "mail": 8,
    "kmem": 9,
    "wheel": 10,
    "cdrom": 11,
    "dialout": 18,
    "floppy": 19,
    "video": 28,
    "audio": 29,
    "tape": 32,
    "www-data": 33,
    "operator": 37,
    "utmp": 43,
    "plugdev": 46,
    "staff": 50,
    "lock": 54,
    "netdev": 82,
    "users": 100,
    "nobody": 65534,
}

_SHADOW = b"root:*:10933:0:99999:7:::\ndaemon:*:10933:0:99999:7:::\nnobody:*:10933:0:99999:7:::\n"

_DIRECTORIES = {
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "etc/network": 0o755,
    "home": 0o755,
    "lib": 0o755,
    "root": 0o700,
    "tmp": 0o1777,
    "usr": 0o755,
    "usr/bin": 0o755,
    "usr/sbin": 0o755,
    "var": 0o755,
    "var/spool": 0o755,
    "var/spool/mail": 0o755,
    "var/www": 0o755,
}


def busybox_image(binary: str = "/bin/busybox") -> BuiltImage:
    """Build the image of a static busybox; the same binary gives the same image ID.

    Raises NotFoundError if there is no such binary.
    """
    try:
        with open(binary, "rb") as file:
            program = file.read()
            modified = int(os.fstat(file.fileno()).st_mtime)
    except FileNotFoundError:
        raise NotFoundError(f"no busybox at {binary}: install busybox-static") from None
    if b"/lib64/ld-linux" in program[:4096]:
        raise OrlopError(f"{binary} is not static: install busybox-static")
    layer = LayerBuilder(mtime=modified)
    for path, mode in _DIRECTORIES.items():
        owner = 8 if path == "var/spool/mail" else 65534 if path == "home" else 0
        layer.directory(path, mode, owner, owner)
    layer.file("bin/busybox", program, 0o755)
    for applet in _applets(binary):
        layer.hardlink(f"bin/{applet}", "bin/busybox")
    layer.symlink("usr/bin/env", "../../bin/env")
    layer.file("etc/passwd", _PASSWD)
    groups = (f"{name}:x:{gid}:{'root' if name == 'wheel' else ''}\n" for name, gid in _GROUPS.items())
    layer.file("etc/group", "".join(groups).encode())
    layer.file("etc/shadow", _SHADOW, 0o600)
    config = ImageConfig(env=[PATH], cmd=["sh"])
    history = [History(created_by=f"static busybox of {len(program)} bytes")]
    return build_image([layer.finish()], config, created=modified, history=history)


def _applets(binary: str) -> list[str]:
    listed = subprocess.run([binary, "--list"], check=True, capture_output=True, text=True).stdout
    return sorted(set(listed.split()) - {"busybox"})


def main() -> int:
    """Write the archive to standard output."""
    if sys.stdout.isatty():
        print("refusing to write an archive to a terminal: redirect the output", file=sys.stderr)  # noqa: T201
        return 1
    try:
        write_archive({"busybox:latest": busybox_image(*sys.argv[1:2])}, sys.stdout.buffer)
    except OrlopError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
