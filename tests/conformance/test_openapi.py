# SPDX-License-Identifier: Apache-2.0
"""The description that orlopd gives of its API."""

from __future__ import annotations

import json
import re

import pytest
from conformance import exchange
from conformance.differ import SCENARIO, ours

pytestmark = pytest.mark.root

_TEMPLATE = re.compile(r"\{\w+\}")


def test_every_request_of_the_scenario_is_described() -> None:
    with ours() as daemon:
        answer = exchange.ask(daemon.socket, "GET", "/openapi.json", None, {})
        document = json.loads(answer.body)
    assert (answer.status, document["openapi"]) == (200, "3.1.0")
    described = {
        (method.upper(), re.compile(_TEMPLATE.sub(".+", path)))
        for path, operations in document["paths"].items()
        for method in operations
    }
    wanted = {(step.method, step.path.partition("?")[0]) for step in SCENARIO if not step.path.startswith("//")}
    for method, path in sorted(wanted - _NOWHERE):
        assert any(method == known and pattern.fullmatch(path) for known, pattern in described), (method, path)
    create = document["paths"]["/containers/create"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    assert "HostConfig" in document["components"]["schemas"][create["$ref"].rpartition("/")[2]]["properties"]


# Asked for to see that they are not there.
_NOWHERE = {
    ("GET", "/nosuch"), ("PUT", "/version"), ("DELETE", "/containers/json"), ("HEAD", "/version"),
    ("GET", "/containers/json/"), ("OPTIONS", "/version"), ("POST", "/tasks/create"), ("POST", "/tasks/x/update"),
}  # fmt: skip
