# SPDX-License-Identifier: Apache-2.0
"""`--device vendor.com/class=name` and `--gpus`, through the docker command."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from support.stack import Stack

pytestmark = pytest.mark.root


def test_devices_that_files_describe() -> None:
    edits = {
        "env": ["VENDOR=yes"],
        "deviceNodes": [{"path": "/dev/vendor0", "hostPath": "/dev/zero"}],
        "mounts": [{"hostPath": "/etc/hostname", "containerPath": "/vendor", "options": ["ro"]}],
    }
    described = {"cdiVersion": "0.6.0", "kind": "vendor.com/class", "devices": []}
    described["devices"] = [{"name": "one", "containerEdits": edits}]
    with tempfile.TemporaryDirectory() as directory, Stack(flags=["--cdi-spec-dir", directory]) as stack:
        Path(directory, "vendor.json").write_text(json.dumps(described))
        stack.load("busybox")
        script = "head -c 3 /dev/vendor0 | wc -c; echo $VENDOR; touch /vendor 2>/dev/null || echo ro"
        flags = ["--rm", "--device", "vendor.com/class=one"]
        done = stack.docker("run", *flags, "busybox", "sh", "-c", script)
        assert done.ok() == "3\nyes\nro\n"
        info = json.loads(stack.docker("info", "-f", "{{json .}}").ok())
        assert info["CDISpecDirs"] == [directory]
        assert info["DiscoveredDevices"] == [{"Source": "cdi", "ID": "vendor.com/class=one"}]
        missing = stack.docker("run", "--rm", "--device", "vendor.com/class=two", "busybox", "true")
        assert "CDI device injection failed: unresolvable CDI devices vendor.com/class=two" in missing.err
        gpus = stack.docker("run", "--rm", "--gpus", "all", "busybox", "true")
        assert 'could not select device driver "" with capabilities: [[gpu]]' in gpus.err
        assert stack.docker("ps", "-aq").out == ""
