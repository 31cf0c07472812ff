# SPDX-License-Identifier: Apache-2.0
"""surface.tsv: each field, option, setting and flag about networks has a test that sees its effect, or a reason
why none can; and so has each attack that docs/security.md names."""

import re
from pathlib import Path

import msgspec

from orlop.cli.command import Command
from orlop.cli.commands import networks
from orlop.dockerd.network import drivers
from orlop.dockerd.network.types import NetworkConfig
from orlop.engine.types import IPAM, EndpointIPAMConfig, EndpointSettings, IPAMConfig, NetworkCreateRequest

TESTS = Path(__file__).parents[1]


def rows() -> dict[str, str]:
    lines = (TESTS / "network" / "surface.tsv").read_text().splitlines()[1:]
    return {name: seen for name, _, seen in (line.partition("\t") for line in lines)}


def wanted() -> set[str]:
    kinds = (NetworkCreateRequest, IPAM, IPAMConfig, EndpointSettings, EndpointIPAMConfig)
    found = {f"{kind.__name__} {field.encode_name}" for kind in kinds for field in msgspec.structs.fields(kind)}
    for driver in ("bridge", "macvlan", "ipvlan", "overlay"):
        found |= {f"option {name}" for name in drivers.get(driver).options}
    found |= {f"daemon {field.name}" for field in msgspec.structs.fields(NetworkConfig)}
    commands = {
        "create": networks.CREATE,
        "connect": networks.CONNECT,
        "disconnect": networks.DISCONNECT,
        "ls": networks.LIST,
        "prune": networks.PRUNE,
        "rm": networks.REMOVE,
    }
    assert set(commands.values()) == {each for each in vars(networks).values() if isinstance(each, Command)}
    return found | {
        f"docker network {name} --{flag.name}" for name, each in commands.items() for flag in each.flags
    }


def test_everything_has_a_row() -> None:
    assert set(rows()) == wanted()


def test_the_tests_of_the_table_exist() -> None:
    for name, seen in rows().items():
        tests = re.findall(r"(\w+/test_\w+):(test_\w+)", seen)
        assert tests or seen.startswith("none: "), name
        for file, test in tests:
            assert f"def {test}(" in (TESTS / f"{file}.py").read_text(), (name, test)


def test_the_tests_of_attacks_exist() -> None:
    text = (TESTS.parent / "docs" / "security.md").read_text().partition("## Networks")[2].partition("\n## ")[0]
    letters = dict(re.findall(r"\b([A-Z]) (?:is )?`(?:tests/network/)?((?:tests/e2e/)?test_\w+\.py)`", text))
    named = re.findall(r"\b([A-Z]) `(test_\w+)`", text)
    assert len(letters) == 5 and len(named) > 10
    for letter, test in named:
        file = letters[letter]
        place = TESTS.parent / file if "/" in file else TESTS / "network" / file
        assert f"def {test}(" in place.read_text(), test
