# SPDX-License-Identifier: Apache-2.0
"""Properties of a scope from annotations: their text, and what a real systemd makes of them."""

import pytest

from orlop import dbus
from orlop.cgroups.unit_properties import annotated_properties
from orlop.cgroups.variant_text import parse
from orlop.errdefs import InvalidArgumentError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", ("i", 5)),
        ("-5", ("i", -5)),
        ("0x10", ("i", 16)),
        ("010", ("i", 8)),
        ("1.5", ("d", 1.5)),
        ("2e3", ("d", 2000.0)),
        ("byte 255", ("y", 255)),
        ("int16 -3", ("n", -3)),
        ("uint16 3", ("q", 3)),
        ("uint32 7", ("u", 7)),
        ("int64 -7", ("x", -7)),
        ("uint64 18446744073709551615", ("t", 2**64 - 1)),
        ("@t 5", ("t", 5)),
        ("double 5", ("d", 5.0)),
        ("true", ("b", True)),
        ("boolean false", ("b", False)),
        ("'a \\'b\\' \\u00e4\\n'", ("s", "a 'b' ä\n")),
        ('"say"', ("s", "say")),
        ("objectpath '/a'", ("o", "/a")),
        ("signature 'as'", ("g", "as")),
        ("['a.service', 'b.service']", ("as", ["a.service", "b.service"])),
        ("@as []", ("as", [])),
        ("[1, 2.0]", ("ad", [1.0, 2.0])),
        ("[uint64 1, 2]", ("at", [1, 2])),
        ("@au [1, 2]", ("au", [1, 2])),
        ("@aat [[1], []]", ("aat", [[1], []])),
        ("{'a': <1>, 'b': <'x'>}", ("a{sv}", [("a", ("i", 1)), ("b", ("s", "x"))])),
        ("@a{sv} {}", ("a{sv}", [])),
        ("<uint32 5>", ("v", ("u", 5))),
        ("b'ab'", ("ay", b"ab\0")),
    ],
)
def test_values(text: str, value: tuple[str, object]) -> None:
    assert parse(text) == value
    assert dbus.marshal("v", value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a value is missing"),
        ("word", "'word' is not a value"),
        ("5 6", "'6' where 'the end' is expected"),
        ("'open", "cannot read"),
        ("[1, 'a']", "differ in type"),
        ("[]", "has to be told: @as"),
        ("byte 256", "out of range for the type 'y'"),
        ("5000000000", "out of range for the type 'i'"),
        ("uint64 'a'", "'a' is not of the type 't'"),
        ("@z 5", "'z' is not a type"),
        ("[1", "'the end' where ',' is expected"),
        ("{'a' 1}", "'1' where ':' is expected"),
    ],
)
def test_text_that_is_no_value(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgumentError, match=reason):
        parse(text)


def test_annotations() -> None:
    assert annotated_properties({
        "org.systemd.property.TimeoutStopUSec": "uint64 5",
        "org.systemd.property.RuntimeMaxSec": "2.5",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
        "org.other": "[",
    }) == [
        ("TimeoutStopUSec", ("t", 5)),
        ("RuntimeMaxUSec", ("t", 2_500_000)),
        ("CollectMode", ("s", "inactive-or-failed")),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("ab", "1", "'ab' is not the name of a property"),
        ("Memory_Max", "1", "is not the name of a property"),
        ("MemoryMax", "lots", "MemoryMax=lots: 'lots' is not a value"),
        ("TimeoutStopSec", "'a'", "not a number of seconds"),
        ("TimeoutStopSec", "-1", "not a number of seconds"),
    ],
)
def test_annotations_that_say_nothing(name: str, text: str, reason: str) -> None:
    with pytest.raises(InvalidArgumentError, match=reason):
        annotated_properties({f"org.systemd.property.{name}": text})
