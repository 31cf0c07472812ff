# SPDX-License-Identifier: Apache-2.0
"""The one place where errors become HTTP answers."""

from aiohttp import web

from orlop import codec, errdefs

_STATUS: tuple[tuple[type[errdefs.OrlopError], int], ...] = (
    (errdefs.NotFoundError, 404),
    (errdefs.InvalidArgumentError, 400),
    (errdefs.OutOfRangeError, 400),
    (errdefs.AlreadyExistsError, 409),
    (errdefs.ConflictError, 409),
    (errdefs.FailedPreconditionError, 409),
    (errdefs.UnauthorizedError, 401),
    (errdefs.UnavailableError, 503),
    (errdefs.PermissionDeniedError, 403),
    (errdefs.NotModifiedError, 304),
    (errdefs.NotImplementedByUsError, 501),
)


def status_of(error: BaseException) -> int:
    """The HTTP status for an error: Docker's table, 500 for what it does not name."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return 500


def error_response(error: BaseException, *, plain: bool = False) -> web.Response:
    """`{"message": …}` with the error's status; plain text for clients older than API 1.24."""
    return message_response(status_of(error), str(error) or type(error).__name__, plain=plain)


def message_response(status: int, message: str, *, plain: bool = False) -> web.Response:
    """An error answer with a given status and message."""
    if status == 304:
        return web.Response(status=304)
    if plain:
        return web.Response(status=status, text=message + "\n")
    body = codec.encode({"message": message}) + b"\n"
    return web.Response(status=status, body=body, content_type="application/json")
