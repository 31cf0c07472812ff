# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, made by openssl(1)."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def make(where: Path) -> Path:
    """An authority (ca.pem), certificates of server and client by it, and one of a stranger by another."""
    for authority in ("ca", "other"):
        _openssl(
            where, f"req -x509 -nodes -days 9 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"
        )
    (where / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
    for name, authority in (("server", "ca"), ("client", "ca"), ("stranger", "other")):
        _openssl(where, f"req -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr")
        signed = f"-CA {authority}.pem -CAkey {authority}.key -CAcreateserial -extfile names"
        _openssl(where, f"x509 -req -days 9 -in {name}.csr {signed} -out {name}.pem")
    shutil.copy(where / "client.pem", where / "cert.pem")  # as the docker command looks for them
    shutil.copy(where / "client.key", where / "key.pem")
    return where


def _openssl(where: Path, arguments: str) -> None:
    words = arguments.split()
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"] if words[0] == "req" else []
    subprocess.run(["openssl", words[0], *new_key, *words[1:]], cwd=where, check=True, capture_output=True)
