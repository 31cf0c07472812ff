# SPDX-License-Identifier: Apache-2.0
"""properties.tsv: each property of config.json has a test that sees its effect, or a reason why none here can."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from orlop.oci.runtime import Spec

HERE = Path(__file__).parent


def _rows() -> dict[str, str]:
    lines = (HERE / "properties.tsv").read_text().splitlines()[1:]
    return {name: seen for name, _, seen in (line.partition("\t") for line in lines)}


def _properties(kind: msgspec.inspect.Type, path: str) -> set[str]:
    """The paths that the table uses: `[]` for the members of a list; maps end at their own name."""
    if isinstance(kind, msgspec.inspect.UnionType):
        return set().union(*(_properties(part, path) for part in kind.types))
    if isinstance(kind, msgspec.inspect.ListType):
        return _properties(kind.item_type, f"{path}[]")
    if not isinstance(kind, msgspec.inspect.StructType):
        return set()
    found = set()
    for field in kind.fields:
        name = f"{path}.{field.encode_name}".lstrip(".")
        found |= {name} | _properties(field.type, name)
    return found


def test_every_property_has_a_row() -> None:
    assert _properties(msgspec.inspect.type_info(Spec), "") - set(_rows()) == set()


def test_the_tests_of_the_table_exist() -> None:
    for name, seen in _rows().items():
        assert seen, name
        for file, test in re.findall(r"(test_\w+):(test_\w+)", seen):
            assert f"def {test}(" in (HERE / f"{file}.py").read_text(), (name, test)
