# SPDX-License-Identifier: Apache-2.0
"""A registry's refusals and a network's failures as our errors, in Docker's words."""

import socket
import ssl

import aiohttp
from yarl import URL

from orlop.codec import decode
from orlop.errdefs import (
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    OrlopError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthorizedError,
    UnavailableError,
)
from orlop.oci.distribution import ErrorDocument, ErrorItem
from orlop.oci.reference import Reference

ERROR_SIZE_MAX = 64 << 10  # bytes of an error body that are read

_BY_STATUS = {401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS"}
_MESSAGES = {
    "UNAUTHORIZED": "authentication required",
    "DENIED": "requested access to the resource is denied",
    "TOOMANYREQUESTS": "too many requests to registry",
    "MANIFEST_UNKNOWN": "manifest unknown",
}


async def read_error(response: aiohttp.ClientResponse) -> bytes:
    """The body of a refusal, as much of it as matters; nothing where it breaks off."""
    data = bytearray()
    try:
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > ERROR_SIZE_MAX:
                break
    except (aiohttp.ClientError, TimeoutError):
        return b""
    return bytes(data)


def registry_errors(body: bytes) -> list[ErrorItem]:
    """The errors of a registry's answer; none if it is no error document."""
    try:
        return decode(body, ErrorDocument).errors
    except InvalidArgumentError:
        return []


def refusal(reference: Reference, status: int, body: bytes, what: str, challenge_error: str = "") -> OrlopError:
    """The error for an answer of 400 and above to a request for a manifest or blob.

    `what` is the request, as `GET https://…`; `challenge_error` the error parameter of a Bearer challenge.
    """
    items = registry_errors(body)
    if challenge_error == "insufficient_scope" and status == 401:
        items = [ErrorItem(code="DENIED", message=_MESSAGES["DENIED"])]
    if not items and status == 404 and "/manifests/" in what and not body.strip():
        items = [ErrorItem(code="MANIFEST_UNKNOWN", message=_MESSAGES["MANIFEST_UNKNOWN"])]
    if not items and status in _BY_STATUS:
        code = _BY_STATUS[status]
        items = [ErrorItem(code=code, message=_MESSAGES[code])]
    if not items:
        kind: type[OrlopError] = (
            UnavailableError if status >= 500 else NotFoundError if status == 404 else InternalError
        )
        return kind(f"unexpected status {status} from {what}")
    item = items[0]
    match item.code:
        case "DENIED":
            name = reference.familiar_name
            return NotFoundError(
                f"pull access denied for {name}, repository does not exist or may require 'docker login': {item}"
            )
        case "MANIFEST_UNKNOWN":
            return NotFoundError(f"manifest for {reference.familiar} not found: {item}")
        case "NAME_UNKNOWN":
            return NotFoundError(f"repository {reference.familiar_name} not found: {item}")
        case "UNAUTHORIZED":
            return UnauthorizedError(str(item))
        case "TOOMANYREQUESTS":
            return ResourceExhaustedError(str(item))
        case "BLOB_UNKNOWN":
            return NotFoundError(str(item))
    return _by_status(status)(str(item))


def push_refusal(status: int, body: bytes, what: str) -> OrlopError:
    """The error for an answer of 400 and above to an upload."""
    items = registry_errors(body)
    if not items and status in _BY_STATUS:
        items = [ErrorItem(code=_BY_STATUS[status], message=_MESSAGES[_BY_STATUS[status]])]
    if not items:
        return _by_status(status)(f"unexpected status {status} from {what}")
    kinds: dict[str, type[OrlopError]] = {"DENIED": PermissionDeniedError, "UNAUTHORIZED": UnauthorizedError}
    return kinds.get(items[0].code, _by_status(status))(str(items[0]))


def _by_status(status: int) -> type[OrlopError]:
    kinds: dict[int, type[OrlopError]] = {
        400: InvalidArgumentError,
        401: UnauthorizedError,
        403: PermissionDeniedError,
        404: NotFoundError,
        429: ResourceExhaustedError,
    }
    return kinds.get(status, UnavailableError if status >= 500 else InternalError)


def describe_failure(method: str, url: URL | str, error: BaseException) -> str:
    """One line for a request that got no answer, as Go's clients write it."""
    return f'{method.capitalize()} "{url}": {_cause(error)}'


def _cause(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"tls: failed to verify certificate: {_text(error.certificate_error)}"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"tls: {_text(error.os_error)}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {error.host}: no such host"
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        if isinstance(cause, socket.gaierror):
            return f"dial tcp: lookup {error.host}: no such host"
        return f"dial tcp {error.host}:{error.port}: connect: {_text(cause)}"
    if isinstance(error, TimeoutError):
        return "timeout awaiting response"
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        return "unexpected EOF"
    return _text(error)


def _text(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        import os

        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__
