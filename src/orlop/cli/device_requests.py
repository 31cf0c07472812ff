# SPDX-License-Identifier: Apache-2.0
"""`--gpus`, and `--device` by the name of a CDI device: what the API calls device requests."""

import csv
from typing import Any

from orlop.cli.errors import UsageError


def device_requests(gpus: str, cdi_names: list[str]) -> list[dict[str, Any]]:
    """The requests for `--gpus` (empty: none) and for CDI devices. Raises UsageError."""
    found = [_gpus(gpus)] if gpus else []
    return [*found, {"Driver": "cdi", "DeviceIDs": cdi_names}] if cdi_names else found


def _gpus(text: str) -> dict[str, Any]:
    request: dict[str, Any] = {
        "Driver": "", "Count": 0, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {},
    }  # fmt: skip
    seen = set()
    for field in next(csv.reader([text])):
        key, equals, value = field.partition("=")
        if not equals:
            key, value = "count", field
        if key in seen:
            raise _wrong(text, f"gpu request key '{key}' can be specified only once")
        seen.add(key)
        if key == "count":
            request["Count"] = _count(text, value)
        elif key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "driver":
            request["Driver"] = value
        elif key == "capabilities":
            request["Capabilities"] = [[*value.split(","), "gpu"]]
        elif key == "options":
            request["Options"] = dict(pair.partition("=")[::2] for pair in next(csv.reader([value])))
        else:
            raise _wrong(text, f"unexpected key '{key}' in '{field}'")
    if not seen & {"count", "device"}:
        request["Count"] = 1
    return request


def _count(text: str, value: str) -> int:
    if value == "all":
        return -1
    try:
        return int(value)
    except ValueError:
        raise _wrong(text, f'invalid count ({value}): value must be either "all" or an integer') from None


def _wrong(text: str, reason: str) -> UsageError:
    return UsageError(f'invalid argument "{text}" for "--gpus" flag: {reason}')
