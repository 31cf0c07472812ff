# SPDX-License-Identifier: Apache-2.0
"""TLS as a client: what every layer that connects to somebody's server begins with."""

import ssl


def client_context(authorities: str | None = None) -> ssl.SSLContext:
    """A context that verifies the server, by the certificates of a file or by the system's.

    Python 3.13 asks certificates to obey RFC 5280 to the letter (VERIFY_X509_STRICT), which those
    that somebody made for a registry or a daemon rarely do; Go asks for no such thing.
    Raises OSError for an unreadable file.
    """
    context = ssl.create_default_context(cafile=authorities)
    context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
    return context
