# SPDX-License-Identifier: Apache-2.0
"""features: what this runtime can do, as the specification's features document."""

import sys

import msgspec

from orlop.libcontainer.capabilities import NAMES
from orlop.libcontainer.namespaces import FLAGS
from orlop.libcontainer.scheduling import MEMORY_FLAGS, MEMORY_MODES
from orlop.libcontainer.seccomp_program import ARCHITECTURES
from orlop.runc.main import SPEC_VERSION, VERSION, Call
from orlop.unix.mount import ATTRIBUTES, PROPAGATION

_PLAIN_OPTIONS = (
    "async",
    "bind",
    "defaults",
    "dirsync",
    "lazytime",
    "mand",
    "rbind",
    "remount",
    "sync",
    "tmpcopyup",
)
_ACTIONS = (
    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
)  # fmt: skip
_OPERATORS = ("EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE")
_FLAGS = ("LOG", "SPEC_ALLOW", "TSYNC", "WAIT_KILLABLE_RECV")


def features(call: Call) -> int:
    """Print the document."""
    options = {*_PLAIN_OPTIONS, *ATTRIBUTES, *PROPAGATION}
    options |= {f"r{name}" for name in (*ATTRIBUTES, *PROPAGATION)}
    document: dict[str, object] = {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": sorted(options),
        "linux": {
            "namespaces": sorted(FLAGS),
            "capabilities": list(NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": list(_ACTIONS),
                "operators": [f"SCMP_CMP_{name}" for name in _OPERATORS],
                "archs": sorted(ARCHITECTURES),
                "knownFlags": [f"SECCOMP_FILTER_FLAG_{name}" for name in _FLAGS],
                "supportedFlags": [f"SECCOMP_FILTER_FLAG_{name}" for name in _FLAGS],
            },
            # What the runtime can do, not what the kernel has.
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
            "memoryPolicy": {"modes": sorted(MEMORY_MODES), "flags": sorted(MEMORY_FLAGS)},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "potentiallyUnsafeConfigAnnotations": ["org.criu.config", "org.systemd.property."],
        "annotations": {
            "org.opencontainers.runc.checkpoint.enabled": "true",
            "org.orlop.version": VERSION,
        },
    }
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=4).decode() + "\n")
    return 0
