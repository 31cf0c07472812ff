# SPDX-License-Identifier: Apache-2.0
"""`update`: change limits and the restart policy of containers."""

import sys
from typing import Any

from orlop.cli.command import Command
from orlop.cli.container_options import nano_cpus, parse_mount, restart_policy
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.cli.ports import parse_ports
from orlop.engine.client import Client, EngineError

# flag: field of the body
_NUMBERS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
    "pids-limit": "PidsLimit",
}
_TEXTS = {"cpuset-cpus": "CpusetCpus", "cpuset-mems": "CpusetMems"}


def run(client: Client, args: Args) -> int:
    if "kernel-memory" in args.given:
        print("Flag --kernel-memory has been deprecated, and no longer supported by the kernel", file=sys.stderr)
    if not args.given:
        raise ExitError("you must provide one or more flags when using this command")
    body: dict[str, Any] = {field: args.number(flag) for flag, field in _NUMBERS.items() if flag in args.given}
    body |= {field: args.text(flag) for flag, field in _TEXTS.items() if flag in args.given}
    if "cpus" in args.given:
        body["NanoCpus"] = nano_cpus(args.decimal("cpus"))
    if "restart" in args.given:
        body["RestartPolicy"] = restart_policy(args.text("restart"))
    if "publish-add" in args.given:
        body["PublishAdd"] = parse_ports(args.items("publish-add"), [])[1]
    if "publish-rm" in args.given:
        body["PublishRemove"] = parse_ports(args.items("publish-rm"), [])[1]
    if added := args.items("mount-add"):
        body["MountsAdd"] = [parse_mount(text) for text in added]
    if removed := args.items("mount-rm"):
        body["MountsRemove"] = removed
    status = 0
    warnings: list[str] = []
    for name in args.positional:
        try:
            warnings += client.post(f"/containers/{name}/update", None, body).get("Warnings") or []
            print(name, flush=True)
        except EngineError as error:
            print(f"Error response from daemon: {error}", file=sys.stderr)
            status = 1
    for warning in warnings:
        print(warning, file=sys.stderr)
    return status


UPDATE = Command(
    "update [OPTIONS] CONTAINER [CONTAINER...]",
    "Update configuration of one or more containers",
    run,
    flags=[
        Flag(
            "blkio-weight",
            "",
            "int",
            "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)",
            shown_kind="uint16",
        ),
        Flag("cpu-period", "", "int", "Limit CPU CFS (Completely Fair Scheduler) period"),
        Flag("cpu-quota", "", "int", "Limit CPU CFS (Completely Fair Scheduler) quota"),
        Flag("cpu-rt-period", "", "int", "Limit the CPU real-time period in microseconds"),
        Flag("cpu-rt-runtime", "", "int", "Limit the CPU real-time runtime in microseconds"),
        Flag("cpu-shares", "c", "int", "CPU shares (relative weight)"),
        Flag("cpus", "", "decimal", "Number of CPUs"),
        Flag("cpuset-cpus", "", "string", "CPUs in which to allow execution (0-3, 0,1)"),
        Flag("cpuset-mems", "", "string", "MEMs in which to allow execution (0-3, 0,1)"),
        Flag("kernel-memory", "", "bytes", "Kernel memory limit (deprecated)", hidden=True),
        Flag("memory", "m", "bytes", "Memory limit"),
        Flag("memory-reservation", "", "bytes", "Memory soft limit"),
        Flag("memory-swap", "", "bytes", "Swap limit equal to memory plus swap: -1 to enable unlimited swap"),
        Flag("mount-add", "", "list", "Add a bind or volume, also to a running container"),
        Flag("mount-rm", "", "list", "Remove the mount at this path of the container"),
        Flag("pids-limit", "", "int", "Tune container pids limit (set -1 for unlimited)"),
        Flag("publish-add", "", "list", "Publish a container's port(s), also of a running container"),
        Flag("publish-rm", "", "list", "Publish a container's port(s) no more: 80, or one binding: 8080:80"),
        Flag("restart", "", "string", "Restart policy to apply when a container exits"),
    ],
    min_args=1,
    max_args=None,
)
