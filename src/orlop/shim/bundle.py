# SPDX-License-Identifier: Apache-2.0
"""What the shim itself needs of a bundle's config.json: the runtime reads the rest."""

import msgspec

from orlop.errdefs import InvalidArgumentError


class _Namespace(msgspec.Struct):
    type: str = ""
    path: str | None = None


class _Linux(msgspec.Struct):
    namespaces: list[_Namespace] | None = None


class _Spec(msgspec.Struct):
    linux: _Linux | None = None
    annotations: dict[str, str] | None = None


def _read(bundle: str) -> _Spec:
    path = f"{bundle}/config.json"
    try:
        with open(path, "rb", buffering=0) as file:
            return msgspec.json.decode(file.read(), type=_Spec)
    except OSError as error:
        raise InvalidArgumentError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"{path}: {error}") from None


def annotations(bundle: str) -> dict[str, str]:
    """The container's annotations. Raises InvalidArgumentError for a config.json that is not there or no JSON."""
    return _read(bundle).annotations or {}


def shares_pids(bundle: str) -> bool:
    """Whether the container has no pid namespace of its own. Raises InvalidArgumentError as `annotations`."""
    linux = _read(bundle).linux
    namespaces = (linux.namespaces if linux is not None else None) or []
    return not any(namespace.type == "pid" and not namespace.path for namespace in namespaces)
