# SPDX-License-Identifier: Apache-2.0
"""Which daemon a command line means: by --host, a context, or the environment; and whether over TLS."""

import os
from typing import TYPE_CHECKING

from orlop.cli.errors import ExitError
from orlop.cli.flags import Args
from orlop.engine.client import Client

if TYPE_CHECKING:
    from orlop.engine.tls import Tls

_DEFAULT = "default"
_LEVELS = ("", "debug", "info", "warn", "error", "fatal")


def connect(options: Args, *, needs_daemon: bool) -> Client:
    """A client for the daemon; without `needs_daemon` the context need not be there.

    Raises ExitError, OrlopError.
    """
    host, flag = options.text("host"), options.text("context")
    if host and flag:
        raise ExitError("conflicting options: cannot specify both --host and --context")
    if options.text("log-level") not in _LEVELS:
        raise ExitError(f"unable to parse logging level: {options.text('log-level')}", 125)
    name = _DEFAULT if host else _context(flag)
    if name == _DEFAULT or not needs_daemon:
        return Client(host or None, context=name, tls=_tls(options))
    from orlop.engine import contexts
    from orlop.engine.tls import Tls

    there = contexts.endpoint(name)
    verify = not there.skip_tls_verify
    tls = Tls.below(there.tls_directory, verify=verify) if there.tls_directory or not verify else None
    return Client(there.host, context=name, tls=tls)


def _context(flag: str) -> str:
    """The context in use; the module for it is loaded only where one may be chosen."""
    if not flag and os.environ.get("DOCKER_HOST"):
        return _DEFAULT
    from orlop.engine.credentials import config_path

    if not flag and not os.environ.get("DOCKER_CONTEXT") and not os.path.exists(config_path()):
        return _DEFAULT
    from orlop.engine.contexts import chosen

    return chosen(flag)


def _tls(options: Args) -> "Tls | None":
    """What the flags, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH say."""
    verify = options.flag("tlsverify")
    if "tlsverify" not in options.given:
        verify = bool(os.environ.get("DOCKER_TLS_VERIFY"))
    if not (
        verify or options.flag("tls") or any(options.text(name) for name in ("tlscacert", "tlscert", "tlskey"))
    ):
        return None
    from orlop.engine.credentials import config_path
    from orlop.engine.tls import Tls

    found = Tls.below(os.environ.get("DOCKER_CERT_PATH") or os.path.dirname(config_path()), verify=verify)
    return Tls(
        options.text("tlscacert") or found.ca,
        options.text("tlscert") or found.certificate,
        options.text("tlskey") or found.key,
        verify,
    )
