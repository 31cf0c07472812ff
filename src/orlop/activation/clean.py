# SPDX-License-Identifier: Apache-2.0
"""`orlop daemon clean`: takes away what stopped daemons leave on a machine, all but the data root."""

import glob
import os
import shutil
import subprocess
import sys

from orlop.activation.layout import Layout
from orlop.errdefs import FailedPreconditionError, InternalError


def clean(layout: Layout, *, dry_run: bool) -> list[str]:
    """Remove bridges, firewall rules, pinned namespaces and the run directory; what there was, in words.

    The daemons have to be stopped. Raises FailedPreconditionError while there are containers, InternalError with
    what else is in the way.
    """
    bundles = glob.glob(f"{layout.run_dir}/containerd/io.containerd.runtime.v2.task/*/*")
    if bundles:
        names = ", ".join(sorted(os.path.basename(path)[:12] for path in bundles))
        raise FailedPreconditionError(f"containers have processes or state: stop them first ({names})")
    done = _networks(layout, dry_run=dry_run)
    if os.path.isdir(layout.run_dir):
        if mounts := _mounts(layout.run_dir):
            if not dry_run:
                raise FailedPreconditionError(f"{mounts[0]} is mounted: unmount it first")
        elif not dry_run:
            shutil.rmtree(layout.run_dir)
        done.append(f"directory {layout.run_dir}")
    return done


def _networks(layout: Layout, *, dry_run: bool) -> list[str]:
    argv = [sys.executable, "-P", "-m", "orlop.dockerd.network.host_removal"]
    argv += [os.path.join(layout.data_root, "dockerd.db"), os.path.join(layout.run_dir, "netns")]
    if dry_run:
        argv.append("--dry-run")
    finished = subprocess.run(argv, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise InternalError(f"cannot remove networks: {finished.stderr.strip().splitlines()[-1]}")
    return finished.stdout.splitlines()


def _mounts(directory: str) -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as lines:
        points = [line.split()[4] for line in lines]
    return [point for point in points if point.startswith(f"{directory}/")]
