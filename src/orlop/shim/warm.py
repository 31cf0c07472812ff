# SPDX-License-Identifier: Apache-2.0
"""What a zygote does once so that its shims need not: import everything and use it."""

from importlib import import_module

from orlop.unix.specializing import leave_unspecialized

_MODULES = (
    "encodings.ascii",
    "encodings.idna",
    "json.decoder",
    "orlop.api.bootstrap_pb2",
    "orlop.api.cgroup_metrics_v1_pb2",
    "orlop.api.cgroup_metrics_v2_pb2",
    "orlop.cgroups",
    "orlop.libcontainer.container",
    "orlop.libcontainer.entering",
    "orlop.libcontainer.foresight",
    "orlop.libcontainer.holdings",
    "orlop.libcontainer.hooks",
    "orlop.libcontainer.seccomp",
    "orlop.libcontainer.terminal",
    "orlop.shim.cleanup",
    "orlop.shim.runtime.binary",
    "orlop.shim.runtime.inprocess",
    "orlop.shim.server",
    "orlop.unix.overlay",
)
# Runs for every piece of output; all else runs a few times in the life of a shim.
_FAST = ("orlop.shim.io.", "orlop.rpc.stdcopy")
_SPEC = b"""{"ociVersion":"1.0.2","process":{"cwd":"/","args":["sh"],"env":["A=b"],"user":{"uid":0,"gid":0},
"capabilities":{"bounding":["CAP_KILL"]},"rlimits":[{"type":"RLIMIT_NOFILE","hard":1,"soft":1}]},
"root":{"path":"rootfs"},"mounts":[{"destination":"/proc","type":"proc","source":"proc","options":["nosuid"]}],
"linux":{"namespaces":[{"type":"pid"}],"resources":{"memory":{"limit":1},"cpu":{"shares":2},"devices":[{"allow":
false}]},"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}}}"""


def import_all() -> None:
    """Import what shims and containers need; nothing is asked of this machine."""
    for name in _MODULES:
        import_module(name)
    leave_unspecialized(_FAST)


def warm_up() -> None:
    """Import what shims and containers need, and run the common paths once without effects."""
    import_all()
    from orlop import cgroups
    from orlop.api.events_ttrpc_pb2 import DESCRIPTOR
    from orlop.oci.runtime import decode_spec
    from orlop.rpc.ttrpc import frame, methods
    from orlop.shim.rehearsal import rehearse
    from orlop.shim.server import SERVICES

    cgroups.preload()
    decode_spec(_SPEC)
    for service in (*SERVICES, DESCRIPTOR.services_by_name["Events"]):
        for name, method in methods.methods_of(service).items():
            request = methods.encode_request(1, service, name, method.request(), metadata={"a": "b"}, timeout=1)
            [received] = frame.Decoder().feed(request)
            methods.decode_payload(methods.decode_request(received, -1), method)
            [answer] = frame.Decoder().feed(methods.encode_reply(1, method.response()))
            methods.decode_response(answer, method)
    _use_logs()
    rehearse()


def _use_logs() -> None:
    from orlop.rpc import stdcopy
    from orlop.shim.io.jsonlog import Encoder

    encoder = Encoder(1)
    encoder.feed('plain\n"é\r\n'.encode(), 1)
    encoder.flush(1)
    stdcopy.encode(1, b"x")
