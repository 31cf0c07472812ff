# SPDX-License-Identifier: Apache-2.0
"""The distribution specification's error document and the credentials that Docker's clients pass, as types."""

from typing import Any

import msgspec

from orlop.codec import decode
from orlop.errdefs import InvalidArgumentError


class ErrorItem(msgspec.Struct, kw_only=True):
    """One error of a registry: `code` as MANIFEST_UNKNOWN, a sentence, and what it is about."""

    code: str = ""
    message: str = ""
    detail: Any = None

    def __str__(self) -> str:
        code = self.code.lower().replace("_", " ")
        return f"{code}: {self.message}" if self.message else code


class ErrorDocument(msgspec.Struct, kw_only=True):
    """The body of a registry's 4xx and 5xx answers."""

    errors: list[ErrorItem] = []


class Token(msgspec.Struct, kw_only=True):
    """The answer of a token server; `expires_in` in seconds."""

    token: str = ""
    access_token: str = ""
    expires_in: int = 60

    @property
    def value(self) -> str:
        return self.token or self.access_token


class AuthConfig(msgspec.Struct, rename="lower", omit_defaults=True, kw_only=True):
    """Credentials for a registry, as in X-Registry-Auth and in docker's config.json."""

    username: str = ""
    password: str = ""
    auth: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""

    def __repr__(self) -> str:
        return f"AuthConfig(serveraddress={self.serveraddress!r})"  # never the secrets: reprs end up in logs

    def credentials(self) -> tuple[str, str] | None:
        """User name and password, from their own fields or from `auth`; None where there are none."""
        import base64
        import binascii

        if self.username:
            return self.username, self.password
        if not self.auth:
            return None
        try:
            user, colon, password = base64.b64decode(self.auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise InvalidArgumentError("invalid auth: not base64 of user:password") from None
        if not colon:
            raise InvalidArgumentError("invalid auth: not base64 of user:password")
        return user, password.strip("\0")


def decode_registry_auth(header: str) -> AuthConfig | None:
    """Read the header X-Registry-Auth: base64url of a JSON document, with or without padding.

    None for an empty header or an empty document. Raises InvalidArgumentError for what is malformed.
    """
    import base64
    import binascii

    if not header:
        return None
    try:
        text = header.rstrip("=")
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgumentError("invalid X-Registry-Auth header: not base64url") from None
    if not raw.strip() or raw.strip() == b"{}":
        return None
    try:
        return decode(raw, AuthConfig)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"invalid X-Registry-Auth header: {error}") from None
