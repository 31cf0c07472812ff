# SPDX-License-Identifier: Apache-2.0
"""The filter language."""

import pytest

from orlop.containerd.core.filters import adapt, parse, parse_all
from orlop.errdefs import InvalidArgumentError

OBJECT = adapt(
    {"name": "docker.io/library/busybox:latest", "target.digest": "sha256:abc", "empty": "", "absent": None},
    {"labels": {"a": "1", "io.example/role": "web server", "dotted.key": "x", 'quo"te': "q"}},
)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("name", True),
        ("absent", False),
        ("empty", True),
        ("unknown", False),
        ("name==docker.io/library/busybox:latest", True),
        ("name==busybox", False),
        ("name!=busybox", True),
        ("absent!=anything", True),
        ("name~=busybox", True),
        ("name~=^busybox", False),
        ("absent~=.*", False),
        ("target.digest==sha256:abc", True),
        ("labels.a==1", True),
        ("labels.a", True),
        ("labels.b", False),
        ("labels.b!=1", True),
        ("labels.dotted.key==x", True),
        ('labels."dotted.key"==x', True),
        ('labels."io.example/role"=="web server"', True),
        ('labels."io.example/role"~="^web"', True),
        ('labels."quo\\"te"==q', True),
        ("name~=/library.(busy|tiny)box:/", True),
        ("name~=|^docker\\.io/|", True),
        ("labels.a==1,name~=busybox", True),
        ("labels.a==1,name==busybox", False),
        ("labels.a == 1, name ~= busybox", True),
        ('labels.a=="\\x31"', True),
        ('labels.a=="\\u0031"', True),
        ('labels.a=="\\061"', True),
    ],
)
def test_matches(text: str, matches: bool) -> None:
    assert parse(text)(OBJECT) is matches


@pytest.mark.parametrize(
    "text",
    [
        "name=busybox",
        "name===x",
        "name==",
        "==x",
        "name==a,",
        ",name",
        "name.==x",
        'name=="open',
        "name==|a|",
        "name~=(",
        "na-me==x",
        'name=="\\z"',
        "name==a b",
        "labels.a==1 , name",
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="filters: parse error"):
        parse(text)


def test_a_list_means_any() -> None:
    assert parse_all([])(OBJECT)
    assert parse_all(["name==x", "labels.a==1"])(OBJECT)
    assert not parse_all(["name==x", "labels.a==2"])(OBJECT)


def test_the_place_of_an_error_is_shown() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse("name=x")
    assert str(caught.value) == 'filters: parse error: [name >|=|< x]: unsupported operator "="'
