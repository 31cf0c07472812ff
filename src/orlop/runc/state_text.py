# SPDX-License-Identifier: Apache-2.0
"""A container's state as runc's JSON has it, for `state` and `list`."""

from orlop.libcontainer.handle import Handle

Fields = dict[str, str | int | dict[str, str]]


def fields(container: Handle, owner: str = "") -> Fields:
    """The properties in the order in which runc writes them."""
    facts, status = container.facts, container.status()
    result: Fields = {
        "ociVersion": facts.oci_version,
        "id": facts.id,
        "pid": 0 if status == "stopped" else facts.init_pid,
        "status": status,
        "bundle": facts.bundle,
        "rootfs": facts.rootfs,
        "created": facts.created,
        "owner": owner,
    }
    if facts.annotations:
        result["annotations"] = facts.annotations
    return result


def indented(value: Fields) -> str:
    """JSON text with an indent of two."""
    return _object({name: _value(each) for name, each in value.items()}, "")


def _value(value: str | int | dict[str, str]) -> str:
    if isinstance(value, dict):
        return _object({name: quote(each) for name, each in value.items()}, "  ")
    return quote(value) if isinstance(value, str) else str(value)


def _object(members: dict[str, str], indent: str) -> str:
    lines = (f"{indent}  {quote(name)}: {text}" for name, text in members.items())
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def quote(text: str) -> str:
    """A string of JSON."""
    try:
        from _json import encode_basestring
    except ImportError:  # no CPython
        import json

        return json.dumps(text, ensure_ascii=False)
    quoted: str = encode_basestring(text)
    return quoted
