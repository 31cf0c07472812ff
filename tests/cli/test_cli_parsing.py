# SPDX-License-Identifier: Apache-2.0
"""Flags, units, ports, mounts and templates of the command line, as docker reads and writes them."""

import subprocess
import sys
from typing import Any

import pytest

from orlop.cli import gotemplate, tree
from orlop.cli.commands import networks, run
from orlop.cli.commands.ps import PS
from orlop.cli.commands.run_flags import CREATE_FLAGS, RUN_FLAGS
from orlop.cli.container_options import create_body, parse_mount
from orlop.cli.errors import ExitError, UsageError
from orlop.cli.flags import Flag, parse
from orlop.cli.ports import parse_ports
from orlop.cli.streams import _DetachKeys, parse_detach_keys
from orlop.cli.table import render
from orlop.cli.timestamps import api_time
from orlop.cli.units import ago, binary_size, human_size, parse_size, parse_time
from orlop.engine.client import Client
from orlop.engine.durations import human_duration, parse_duration


def body(*argv: str) -> dict[str, object]:
    return create_body(parse(RUN_FLAGS, list(argv), interspersed=False))


def test_short_flags_combine_and_take_values() -> None:
    args = parse(
        RUN_FLAGS, ["-itw/x", "-e", "A=1", "--env=B=2", "-m=64m", "busybox", "-x", "--rm"], interspersed=False
    )
    assert args.flag("interactive") and args.flag("tty")
    assert args.text("workdir") == "/x"
    assert args.items("env") == ["A=1", "B=2"]
    assert args.number("memory") == 64 * 1024**2
    assert args.positional == ["busybox", "-x", "--rm"]


def test_interspersed_flags_and_the_double_dash() -> None:
    args = parse(PS.flags, ["-a", "--", "-q"])
    assert args.flag("all") and not args.flag("quiet") and args.positional == ["-q"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--foo"], "unknown flag: --foo"),
        (["-ty"], "unknown shorthand flag: 'y' in -ty"),
        (["--name"], "flag needs an argument: --name"),
        (["-m"], "flag needs an argument: 'm' in -m"),
        (["-m", "xx"], 'invalid argument "xx" for "-m, --memory" flag: invalid size: \'xx\''),
        (["--pids-limit", "x"], 'invalid argument "x" for "--pids-limit" flag: parsing "x": invalid syntax'),
    ],
)
def test_wrong_flags_have_pflags_words(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(RUN_FLAGS, argv, interspersed=False)
    assert str(caught.value) == message


def test_every_create_flag_is_also_a_run_flag() -> None:
    assert {flag.name for flag in CREATE_FLAGS} < {flag.name for flag in RUN_FLAGS}


def test_every_command_of_the_tree_exists() -> None:
    from importlib import import_module

    for path, (module, name, short) in tree.COMMANDS.items():
        command = getattr(import_module(f"orlop.cli.commands.{module}"), name)
        assert command.short == short, path
    assert set(tree.ALIASES.values()) <= set(tree.COMMANDS)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64m", 64 * 1024**2), ("1.5g", 1610612736), ("100", 100), ("1KiB", 1024), ("-1", -1), ("2TB", 2 * 1024**4)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "5q", "-5m", "m"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        parse_size(text)


def test_durations_and_times() -> None:
    assert parse_duration("1h30m") == 5400 * 10**9
    assert parse_duration("1.5s") == 1_500_000_000
    with pytest.raises(ValueError, match="missing unit"):
        parse_duration("5")
    assert parse_time("1970-01-01T00:01:00.5Z") == 60.5
    assert parse_time("1970-01-01T01:00:00+01:00") == 0
    assert api_time("2013-01-02T13:23:37Z") == "1357133017.000000000"
    assert api_time("2013-01-02") == "1357084800.000000000"
    assert api_time("") is None
    with pytest.raises(ExitError):
        api_time("yesterday")


def test_human_texts() -> None:
    assert [human_duration(s) for s in (0.5, 1, 30, 65, 600, 3600, 7200, 86400 * 3, 86400 * 20)] == [
        "Less than a second", "1 second", "30 seconds", "About a minute", "10 minutes", "About an hour", "2 hours",
        "3 days", "2 weeks",
    ]  # fmt: skip
    assert ago(40.0, now=100.0) == "About a minute ago"
    assert human_size(4261888) == "4.26MB" and human_size(0) == "0B"
    assert binary_size(2 * 1024**3) == "2GiB"


def test_tables_pad_like_tabwriter() -> None:
    assert render([["ID", "NAME"], ["0123456789ab", "x"]]) == "ID             NAME\n0123456789ab   x\n"


def test_published_ports() -> None:
    exposed, bindings = parse_ports(["8080:80", "127.0.0.1:53:53/udp", "90", "[::1]:1-2:3-4"], ["7", "9-10/udp"])
    assert bindings == {
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
        "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "53"}],
        "90/tcp": [{"HostIp": "", "HostPort": ""}],
        "3/tcp": [{"HostIp": "::1", "HostPort": "1"}],
        "4/tcp": [{"HostIp": "::1", "HostPort": "2"}],
    }
    assert {"7/tcp", "9/udp", "10/udp"} < set(exposed)
    for wrong in ("x:80", "80:70000", "80/quic", "1-3:1-2"):
        with pytest.raises(ExitError):
            parse_ports([wrong], [])


def test_create_body() -> None:
    request = body("--rm", "-i", "-v", "/a:/b:ro", "-v", "/anon", "--cpus", "0.5", "--restart", "on-failure:3",
                   "--ulimit", "nofile=10:20", "--entrypoint", "", "--network", "none", "busybox", "echo",
                   "hi")  # fmt: skip
    host = request["HostConfig"]
    assert isinstance(host, dict)
    assert (
        request["Cmd"] == ["echo", "hi"] and request["Entrypoint"] == [""] and request["Volumes"] == {"/anon": {}}
    )
    assert request["OpenStdin"] and request["StdinOnce"] and request["AttachStdin"]
    assert host["Binds"] == ["/a:/b:ro"] and host["NanoCpus"] == 500_000_000 and host["NetworkMode"] == "none"
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 10, "Hard": 20}] and host["AutoRemove"]


def test_requests_for_devices() -> None:
    def requests(*argv: str) -> object:
        host = body(*argv, "busybox")["HostConfig"]
        assert isinstance(host, dict)
        return host["DeviceRequests"], host["Devices"]

    gpu = {"Driver": "", "Count": 2, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}
    assert requests("--gpus", "2") == ([gpu], [])
    named = {**gpu, "Count": 0, "DeviceIDs": ["0", "1"], "Capabilities": [["utility", "gpu"]]}
    assert requests("--gpus", '"device=0,1","capabilities=utility"') == ([named], [])
    assert requests("--gpus", "driver=x,options=a=1") == (
        [{**gpu, "Count": 1, "Driver": "x", "Options": {"a": "1"}}],
        [],
    )
    request, devices = (
        {"Driver": "cdi", "DeviceIDs": ["v.com/c=n"]},
        [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/null", "CgroupPermissions": "rwm"}],
    )
    assert requests("--device", "v.com/c=n", "--device", "/dev/null") == ([request], devices)
    assert requests() == (None, [])
    for wrong in ("x", "gpu=1", "1,2"):
        with pytest.raises(UsageError, match=f'^invalid argument "{wrong}" for "--gpus" flag: '):
            requests("--gpus", wrong)


def test_networks() -> None:
    def networks(*argv: str) -> object:
        config = body(*argv, "busybox")["NetworkingConfig"]
        assert isinstance(config, dict)
        return config["EndpointsConfig"]

    assert networks() == {} and networks("--network", "front") == {}
    assert (
        networks("--network", "host") == {}
        and body("--network", "name=x", "b")["HostConfig"]["NetworkMode"] == "x"
    )  # type: ignore[index]
    assert networks("--network", "front", "--network-alias", "a", "--ip", "10.0.0.9", "--link", "db:d") == {
        "front": {"Aliases": ["a"], "IPAMConfig": {"IPv4Address": "10.0.0.9"}, "Links": ["db:d"]}
    }
    long = "name=back,alias=x,alias=y,ip6=2001:db8::9,mac-address=02:00:00:00:00:01,gw-priority=-3,driver-opt=a=b"
    assert networks("--network", "front", "--network", long) == {
        "front": {},
        "back": {
            "Aliases": ["x", "y"],
            "IPAMConfig": {"IPv6Address": "2001:db8::9"},
            "MacAddress": "02:00:00:00:00:01",
            "GwPriority": -3,
            "DriverOpts": {"a": "b"},
        },
    }
    for argv, message in (
        (["--network", "bridge", "--network", "front"], "cannot attach both user-defined and non-user-defined"),
        (["--network", "front", "--network", "front"], '"front" is specified multiple times'),
        (["--network", "bridge", "--network-alias", "a"], "aliases are only supported for user-defined networks"),
        (["--network", "name=f,alias=a", "--network-alias", "b"], "both --network-alias and per-network alias"),
        (["--network", "alias=a"], "network name/id is not specified"),
        (["--network", "name=f,speed=9"], "invalid field key speed"),
        (["--network", "name=f,gw-priority=x"], "invalid gw-priority (x)"),
    ):
        with pytest.raises(ExitError) as caught:
            networks(*argv)
        assert message in str(caught.value)


class _Recorder(Client):
    """A daemon that agrees to everything."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []

    def post(self, path: str, query: object = None, body: object = None, **_: object) -> Any:
        self.bodies.append(body)
        return {"Id": "1"}


def test_flags_of_networks() -> None:
    daemon = _Recorder()
    flags = ["--attachable", "--ingress", "--internal", "--scope", "swarm", "--ipam-opt", "a=b", "-o", "c=d"]
    networks._create(daemon, parse(networks.CREATE.flags, [*flags, "--ipv4=false", "--ipv6", "front"]))
    made = daemon.bodies.pop()
    assert (made["Attachable"], made["Ingress"], made["Internal"], made["Scope"]) == (True, True, True, "swarm")
    assert (made["EnableIPv4"], made["EnableIPv6"], made["Options"]) == (False, True, {"c": "d"})
    assert made["IPAM"]["Options"] == {"a": "b"}
    wishes = ["--ip", "10.0.0.7", "--ip6", "fd00::7", "--link-local-ip", "169.254.9.9,169.254.9.8"]
    wishes += ["--link", "db:d", "--alias", "x", "--driver-opt", "a=b", "--gw-priority", "-3"]
    networks._connect(daemon, parse(networks.CONNECT.flags, [*wishes, "front", "web"]))
    assert daemon.bodies.pop() == {
        "Container": "web",
        "EndpointConfig": {
            "IPAMConfig": {
                "IPv4Address": "10.0.0.7",
                "IPv6Address": "fd00::7",
                "LinkLocalIPs": ["169.254.9.9", "169.254.9.8"],
            },
            "Links": ["db:d"],
            "Aliases": ["x"],
            "DriverOpts": {"a": "b"},
            "GwPriority": -3,
        },
    }


@pytest.mark.parametrize(("version", "sent"), [("1.43", True), ("1.44", False), ("1.56", False)])
def test_a_mac_address_is_the_endpoints_where_the_daemon_knows_that(
    version: str, sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_API_VERSION", version)
    args = parse(RUN_FLAGS, ["--mac-address", "02:00:00:00:00:07", "box"], interspersed=False)
    made = run._body(Client("unix:///nobody"), args, "run")
    assert ("MacAddress" in made) is sent
    assert made["NetworkingConfig"]["EndpointsConfig"]["default"]["MacAddress"] == "02:00:00:00:00:07"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--subnet", "10.0.0.0/24"], [{"Subnet": "10.0.0.0/24"}]),
        (
            ["--subnet", "10.0.0.0/24,2001:db8::/64", "--gateway", "2001:db8::1", "--gateway", "10.0.0.7"],
            [
                {"Subnet": "10.0.0.0/24", "Gateway": "10.0.0.7"},
                {"Subnet": "2001:db8::/64", "Gateway": "2001:db8::1"},
            ],
        ),
        (
            ["--subnet", "10.0.0.0/24", "--ip-range", "10.0.0.128/25", "--aux-address", "nas=10.0.0.5"],
            [{"Subnet": "10.0.0.0/24", "IPRange": "10.0.0.128/25", "AuxiliaryAddresses": {"nas": "10.0.0.5"}}],
        ),
        (["--gateway", "10.0.0.1"], "every ip-range or gateway must have a corresponding subnet"),
        (["--subnet", "10.0.0.0/24", "--gateway", "10.9.0.1"], "no matching subnet for gateway 10.9.0.1"),
        (
            ["--subnet", "10.0.0.0/24", "--aux-address", "a=10.9.0.1"],
            "no matching subnet for aux-address 10.9.0.1",
        ),
        (["--subnet", "10.0.0.0/24", "--subnet", "10.0.0.0/16"], "multiple overlapping subnet configuration"),
        (["--subnet", "x"], "invalid address: 'x'"),
    ],
)
def test_subnets_of_a_network(argv: list[str], expected: object) -> None:
    args = parse(networks.CREATE.flags, [*argv, "front"])
    if not isinstance(expected, str):
        assert networks._subnets(args) == expected
        return
    with pytest.raises(ExitError, match=expected):
        networks._subnets(args)


def test_mounts() -> None:
    assert parse_mount("type=bind,src=/a,dst=/b,readonly") == {
        "Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True, "BindOptions": {},
    }  # fmt: skip
    assert parse_mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770")["TmpfsOptions"] == {
        "SizeBytes": 1024**2,
        "Mode": 0o1770,
    }
    for wrong, reason in (
        ("type=bind,src=/a", "target is required"),
        ("type=bind,foo=1,dst=/b", "unexpected key 'foo'"),
    ):
        with pytest.raises(ExitError, match=reason):
            parse_mount(wrong)


def test_detach_keys_are_held_back_only_while_they_may_be_one() -> None:
    keys = _DetachKeys(parse_detach_keys(""))
    assert keys.filter(b"a\x10b") == b"a\x10b"
    assert keys.filter(b"\x10") == b""
    assert keys.filter(b"c") == b"\x10c"
    assert parse_detach_keys("ctrl-a,x") == b"\x01x"


DATA = {
    "Name": "n", "State": {"Running": True, "Pid": 7}, "List": [1, 2], "Map": {"b": "2", "a": "1"}, "None": None,
    "Ports": {"80/tcp": [{"HostPort": "8080"}]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Name}}: {{.State.Pid}}", "n: 7"),
        ("{{.State.Running}} {{.List}} {{.Map}}", "true [1 2] map[a:1 b:2]"),
        ("{{json .State}}", '{"Running":true,"Pid":7}'),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ('{{if eq .Name "x"}}1{{else if eq .Name `n`}}2{{else}}3{{end}}', "2"),
        ("{{range .List}}<{{.}}>{{end}}", "<1><2>"),
        ("{{range $k, $v := .Map}}{{$k}}={{$v}};{{end}}", "a=1;b=2;"),
        ('{{(index (index .Ports "80/tcp") 0).HostPort}}', "8080"),
        ("{{with .State}}{{.Pid}}{{end}}", "7"),
        ('{{len .List}} {{.Name | upper}} {{join .List ","}}', "2 N 1,2"),
        ('{{printf "%s-%d" .Name .State.Pid}}', "n-7"),
        ("{{$x := .Name}}{{$x}}{{/* comment */}}", "n"),
        ("a {{- .Name -}} b", "anb"),
        ("{{.None}}", "<no value>"),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert gotemplate.render(template, DATA) == text


@pytest.mark.parametrize("template", ["{{.Foo}}", "{{", "{{if .Name}}", "{{nofunc .}}", "{{end}}", "{{.Name.X}}"])
def test_wrong_templates(template: str) -> None:
    with pytest.raises(gotemplate.TemplateError):
        gotemplate.render(template, DATA)


def test_help_flag_is_everywhere() -> None:
    assert parse([Flag("x")], ["--help"]).flag("help")


def test_a_command_imports_only_what_it_uses() -> None:
    script = (
        "import sys\nfrom orlop.cli.main import main\nstatus = main(['-H', 'unix:///nonexistent', 'ps'])\n"
        "assert status == 1\nprint(' '.join(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    heavy = {
        "asyncio",
        "argparse",
        "dataclasses",
        "subprocess",
        "logging",
        "typing_extensions",
        "msgspec",
        "http.client",
        "rich",
    }
    assert not loaded & heavy
    assert "orlop.cli.commands.run" not in loaded
