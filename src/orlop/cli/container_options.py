# SPDX-License-Identifier: Apache-2.0
"""The flags of `run` and `create` turned into the body of POST /containers/create."""

import os
import shlex
from typing import Any

from orlop.cli.errors import ExitError
from orlop.cli.flags import Args
from orlop.cli.network_options import network_mode, networking
from orlop.cli.ports import parse_ports
from orlop.cli.units import parse_size

Body = dict[str, Any]


def _refuse_windows(args: Args) -> None:
    for flag in ("cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops"):
        if flag in args.given:
            raise ExitError(
                f'"--{flag}" is only supported on a Docker daemon running on windows, but the Docker daemon is '
                "running on linux"
            )


def create_body(args: Args) -> Body:
    """The request body for IMAGE [COMMAND] [ARG...] with all flags. Raises ExitError (125) for a bad value."""
    _refuse_windows(args)
    image, *command = args.positional
    stdin, stdout, stderr = attach_streams(args)
    exposed, bindings = parse_ports(args.items("publish"), args.items("expose"))
    body: Body = {
        "Hostname": args.text("hostname"),
        "Domainname": args.text("domainname"),
        "User": args.text("user"),
        "AttachStdin": stdin,
        "AttachStdout": stdout,
        "AttachStderr": stderr,
        "Tty": args.flag("tty"),
        "OpenStdin": args.flag("interactive"),
        "StdinOnce": args.flag("interactive") and stdin,
        "Env": environment(args.items("env"), args.items("env-file")),
        "Cmd": command or None,
        "Image": image,
        "Volumes": {v: {} for v in args.items("volume") if ":" not in v},
        "WorkingDir": args.text("workdir"),
        "Entrypoint": _entrypoint(args),
        "Labels": _labels(args),
        "StopSignal": args.text("stop-signal"),
        "ExposedPorts": exposed,
        "HostConfig": _host_config(args, bindings),
        "NetworkingConfig": networking(args),
    }
    if args.text("mac-address"):
        body["MacAddress"] = args.text("mac-address")
    if "stop-timeout" in args.given:
        body["StopTimeout"] = args.number("stop-timeout")
    if health := _healthcheck(args):
        body["Healthcheck"] = health
    return body


def attach_streams(args: Args) -> tuple[bool, bool, bool]:
    """Which of the three streams are attached: those of --attach, else stdout and stderr, and stdin with -i."""
    names = [name.lower() for name in args.items("attach")]
    for name in names:
        if name not in ("stdin", "stdout", "stderr"):
            raise ExitError(
                f'invalid argument "{name}" for "-a, --attach" flag: valid streams are STDIN, STDOUT and STDERR',
                125,
            )
    if names:
        return "stdin" in names, "stdout" in names, "stderr" in names
    return args.flag("interactive"), True, True


def environment(pairs: list[str], files: list[str]) -> list[str]:
    """`--env` and `--env-file`: a name without a value takes the caller's, or is left out."""
    result = []
    for path in files:
        result += [line for line in _lines(path) if "=" in line or line in os.environ]
    result += pairs
    return [
        item if "=" in item else f"{item}={os.environ[item]}"
        for item in result
        if "=" in item or item in os.environ
    ]


def key_values(pairs: list[str]) -> dict[str, str]:
    """`key=value` texts as a dict; a key alone has an empty value."""
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except OSError as error:
        raise ExitError(f"open {path}: {(error.strerror or '').lower()}", 125) from None
    return [line for line in lines if line and not line.startswith("#")]


def _entrypoint(args: Args) -> list[str] | None:
    if "entrypoint" not in args.given:
        return None
    # An empty --entrypoint takes the image's away: the API's word for that is a list with an empty string.
    return [args.text("entrypoint")]


def _labels(args: Args) -> dict[str, str]:
    labels: list[str] = []
    for path in args.items("label-file"):
        labels += _lines(path)
    return key_values(labels + args.items("label"))


def _healthcheck(args: Args) -> Body | None:
    if args.flag("no-healthcheck"):
        return {"Test": ["NONE"]}
    names = ("health-cmd", "health-interval", "health-timeout", "health-retries", "health-start-period")
    if not args.given.intersection((*names, "health-start-interval")):
        return None
    return {
        "Test": ["CMD-SHELL", args.text("health-cmd")] if args.text("health-cmd") else None,
        "Interval": args.number("health-interval"),
        "Timeout": args.number("health-timeout"),
        "StartPeriod": args.number("health-start-period"),
        "StartInterval": args.number("health-start-interval"),
        "Retries": args.number("health-retries"),
    }


def _host_config(args: Args, bindings: dict[str, Any]) -> Body:
    config: Body = {
        "Binds": [v for v in args.items("volume") if ":" in v],
        "ContainerIDFile": args.text("cidfile"),
        "NetworkMode": network_mode(args),
        "PortBindings": bindings,
        "RestartPolicy": restart_policy(args.text("restart")),
        "AutoRemove": "rm" in args.given and args.flag("rm"),
        "VolumeDriver": args.text("volume-driver"),
        "VolumesFrom": args.items("volumes-from") or None,
        "Mounts": [parse_mount(text) for text in args.items("mount")],
        "Annotations": key_values(args.items("annotation")),
        "CapAdd": _capabilities(args.items("cap-add")) or None,
        "CapDrop": _capabilities(args.items("cap-drop")) or None,
        "CgroupnsMode": args.text("cgroupns"),
        "Dns": args.items("dns"),
        "DnsOptions": args.items("dns-option") or args.items("dns-opt"),
        "DnsSearch": args.items("dns-search"),
        "ExtraHosts": args.items("add-host") or None,
        "GroupAdd": args.items("group-add") or None,
        "IpcMode": args.text("ipc"),
        "Isolation": args.text("isolation"),
        "Links": args.items("link") or None,
        "OomScoreAdj": args.number("oom-score-adj"),
        "PidMode": args.text("pid"),
        "Privileged": args.flag("privileged"),
        "PublishAllPorts": args.flag("publish-all"),
        "ReadonlyRootfs": args.flag("read-only"),
        "SecurityOpt": _security_options(args.items("security-opt")),
        "StorageOpt": key_values(args.items("storage-opt")),
        "Tmpfs": {path: options for path, _, options in (t.partition(":") for t in args.items("tmpfs"))},
        "UTSMode": args.text("uts"),
        "UsernsMode": args.text("userns"),
        "ShmSize": args.number("shm-size"),
        "Sysctls": key_values(args.items("sysctl")),
        "Runtime": args.text("runtime"),
        "LogConfig": {"Type": args.text("log-driver"), "Config": key_values(args.items("log-opt"))},
    }
    if "init" in args.given:
        config["Init"] = args.flag("init")
    return {**config, **resources(args)}


def resources(args: Args) -> Body:
    """Limits: memory, CPU, block IO, devices, pids, ulimits."""
    swap = args.number("memory-swap")
    config: Body = {
        "CpuShares": args.number("cpu-shares"),
        "Memory": args.number("memory"),
        "NanoCpus": nano_cpus(args.decimal("cpus")),
        "CgroupParent": args.text("cgroup-parent"),
        "BlkioWeight": args.number("blkio-weight"),
        "BlkioWeightDevice": [_device_value(t, "Weight") for t in args.items("blkio-weight-device")],
        "BlkioDeviceReadBps": [_device_value(t, "Rate", sized=True) for t in args.items("device-read-bps")],
        "BlkioDeviceWriteBps": [_device_value(t, "Rate", sized=True) for t in args.items("device-write-bps")],
        "BlkioDeviceReadIOps": [_device_value(t, "Rate") for t in args.items("device-read-iops")],
        "BlkioDeviceWriteIOps": [_device_value(t, "Rate") for t in args.items("device-write-iops")],
        "CpuPeriod": args.number("cpu-period"),
        "CpuQuota": args.number("cpu-quota"),
        "CpuRealtimePeriod": args.number("cpu-rt-period"),
        "CpuRealtimeRuntime": args.number("cpu-rt-runtime"),
        "CpusetCpus": args.text("cpuset-cpus"),
        "CpusetMems": args.text("cpuset-mems"),
        "Devices": [_device(text) for text in args.items("device") if not _is_cdi(text)],
        "DeviceRequests": _device_requests(args),
        "DeviceCgroupRules": args.items("device-cgroup-rule") or None,
        "MemoryReservation": args.number("memory-reservation"),
        "MemorySwap": swap,
        "MemorySwappiness": args.number("memory-swappiness"),
        "OomKillDisable": args.flag("oom-kill-disable"),
        "Ulimits": [_ulimit(text) for text in args.items("ulimit")],
    }
    if "pids-limit" in args.given:
        config["PidsLimit"] = args.number("pids-limit")
    return config


def _capabilities(names: list[str]) -> list[str]:
    """Names as the API has them: `net_admin` is CAP_NET_ADMIN."""
    upper = [name.upper() for name in names]
    return [name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}" for name in upper]


def nano_cpus(cpus: float) -> int:
    """CPUs in units of 10⁻⁹."""
    return round(cpus * 10**9)


def restart_policy(text: str) -> Body:
    name, _, count = text.partition(":")
    if count and not count.isdigit():
        raise ExitError("invalid restart policy format: maximum retry count must be an integer", 125)
    return {"Name": name or "no", "MaximumRetryCount": int(count or 0)}


def _security_options(options: list[str]) -> list[str] | None:
    result = []
    for option in options:
        key, separator, value = option.partition("=")
        if not separator:
            key, separator, value = option.partition(":")
        if key == "seccomp" and value not in ("unconfined", "builtin", ""):
            # The profile travels as its text: the daemon may run where our files aren't.
            try:
                with open(value, encoding="utf-8") as file:
                    result.append(f"seccomp={file.read()}")
            except OSError as error:
                raise ExitError(
                    f"opening seccomp profile ({value}) failed: open {value}: {(error.strerror or '').lower()}",
                    125,
                ) from None
        result.append(option)
    return result or None


def _ulimit(text: str) -> Body:
    name, equals, values = text.partition("=")
    soft, colon, hard = values.partition(":")
    try:
        if not equals:
            raise ValueError
        low = int(soft)
        high = int(hard) if colon else low
    except ValueError:
        raise ExitError(
            f'invalid argument "{text}" for "--ulimit" flag: invalid ulimit argument: {text}', 125
        ) from None
    if 0 <= high < low or (low == -1 and high != -1):
        raise ExitError(
            f'invalid argument "{text}" for "--ulimit" flag: ulimit soft limit must be less than or equal to '
            f"hard limit: {low} > {high}",
            125,
        )
    return {"Name": name, "Soft": low, "Hard": high}


def _is_cdi(device: str) -> bool:
    """Whether this names a device of the Container Device Interface (vendor/class=name), and no file."""
    kind, equals, _ = device.partition("=")
    return bool(equals) and "/" in kind[1:] and kind[0] not in "/."


def _device_requests(args: Args) -> list[Body] | None:
    named = [device for device in args.items("device") if _is_cdi(device)]
    if not named and not args.text("gpus"):
        return None
    from orlop.cli.device_requests import device_requests  # seldom needed

    return device_requests(args.text("gpus"), named)


def _device(text: str) -> Body:
    parts = text.split(":")
    host = parts[0]
    path, permissions = host, "rwm"
    if len(parts) == 2:
        if parts[1] and set(parts[1]) <= set("rwm"):
            permissions = parts[1]
        else:
            path = parts[1]
    elif len(parts) == 3:
        path, permissions = parts[1], parts[2]
    elif len(parts) > 3:
        raise ExitError(f"invalid device specification: {text}", 125)
    return {"PathOnHost": host, "PathInContainer": path, "CgroupPermissions": permissions}


def _device_value(text: str, key: str, *, sized: bool = False) -> Body:
    path, colon, value = text.rpartition(":")
    try:
        if not colon:
            raise ValueError(f"bad format: {text}")
        return {"Path": path, key: parse_size(value) if sized else int(value)}
    except ValueError as error:
        raise ExitError(f"invalid device value {text!r}: {error}", 125) from None


_MOUNT_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}


def parse_mount(text: str) -> Body:
    """`type=bind,src=/a,dst=/b,readonly` as a Mount. Raises ExitError."""
    mount: Body = {"Type": "volume"}

    def fail(reason: str) -> ExitError:
        return ExitError(f'invalid argument "{text}" for "--mount" flag: {reason}', 125)

    for part in _split_csv(text):
        key, equals, value = part.partition("=")
        key = _MOUNT_ALIASES.get(key.lower(), key.lower())
        if not equals and key not in ("readonly", "bind-nonrecursive", "volume-nocopy"):
            raise fail(f"invalid field '{part}' must be a key=value pair")
        if key == "type":
            mount["Type"] = value.lower()
        elif key == "source":
            mount["Source"] = os.path.abspath(value) if value.startswith(".") else value
        elif key == "target":
            mount["Target"] = value
        elif key == "consistency":
            mount["Consistency"] = value
        elif key == "readonly":
            mount["ReadOnly"] = value.lower() not in ("false", "0")
        elif not _mount_option(mount, key, value):
            raise fail(f"unexpected key '{key}' in '{part}'")
    if not mount.get("Target"):
        raise fail("target is required")
    if mount["Type"] == "bind" and "BindOptions" not in mount:
        mount["BindOptions"] = {}
    return mount


def _mount_option(mount: Body, key: str, value: str) -> bool:
    truth = value.lower() not in ("false", "0")
    if key == "bind-propagation":
        mount.setdefault("BindOptions", {})["Propagation"] = value.lower()
    elif key == "bind-nonrecursive":
        mount.setdefault("BindOptions", {})["NonRecursive"] = truth
    elif key == "bind-recursive":
        options = mount.setdefault("BindOptions", {})
        options["NonRecursive"] = value == "disabled"
        options["ReadOnlyNonRecursive"] = value == "writable"
        options["ReadOnlyForceRecursive"] = value == "readonly"
    elif key == "volume-nocopy":
        mount.setdefault("VolumeOptions", {})["NoCopy"] = truth
    elif key == "volume-subpath":
        mount.setdefault("VolumeOptions", {})["Subpath"] = value
    elif key == "volume-label":
        name, _, content = value.partition("=")
        mount.setdefault("VolumeOptions", {}).setdefault("Labels", {})[name] = content
    elif key == "volume-driver":
        mount.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})["Name"] = value
    elif key == "volume-opt":
        name, _, content = value.partition("=")
        driver = mount.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})
        driver.setdefault("Options", {})[name] = content
    elif key == "image-subpath":
        mount.setdefault("ImageOptions", {})["Subpath"] = value
    elif key in ("uid", "gid"):
        if not (value.isascii() and value.isdigit()):
            return False
        owner = mount.setdefault("Owner", {"UID": int(value), "GID": int(value)})
        owner[key.upper()] = int(value)
    elif key == "tmpfs-size":
        mount.setdefault("TmpfsOptions", {})["SizeBytes"] = parse_size(value)
    elif key == "tmpfs-mode":
        mount.setdefault("TmpfsOptions", {})["Mode"] = int(value, 8)
    else:
        return False
    return True


def _split_csv(text: str) -> list[str]:
    """Fields of one comma-separated line in which a field may stand in double quotes."""
    if '"' not in text:
        return text.split(",")
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace, lexer.whitespace_split, lexer.quotes, lexer.escape, lexer.commenters = ",", True, '"', "", ""
    return list(lexer)
