# SPDX-License-Identifier: Apache-2.0
"""Translate orlop's errors to gRPC and ttrpc status codes, and back."""

from orlop import errdefs

OK = 0
CANCELLED = 1
UNKNOWN = 2
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
ALREADY_EXISTS = 6
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
FAILED_PRECONDITION = 9
ABORTED = 10
OUT_OF_RANGE = 11
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14
DATA_LOSS = 15
UNAUTHENTICATED = 16

_CODES: dict[type[errdefs.OrlopError], int] = {
    errdefs.CanceledError: CANCELLED,
    errdefs.InternalError: UNKNOWN,
    errdefs.InvalidArgumentError: INVALID_ARGUMENT,
    errdefs.DeadlineExceededError: DEADLINE_EXCEEDED,
    errdefs.NotFoundError: NOT_FOUND,
    errdefs.AlreadyExistsError: ALREADY_EXISTS,
    errdefs.PermissionDeniedError: PERMISSION_DENIED,
    errdefs.ResourceExhaustedError: RESOURCE_EXHAUSTED,
    errdefs.FailedPreconditionError: FAILED_PRECONDITION,
    errdefs.ConflictError: ABORTED,
    errdefs.OutOfRangeError: OUT_OF_RANGE,
    errdefs.NotImplementedByUsError: UNIMPLEMENTED,
    errdefs.UnavailableError: UNAVAILABLE,
    errdefs.DataLossError: DATA_LOSS,
    errdefs.UnauthorizedError: UNAUTHENTICATED,
}
_ERRORS = {code: kind for kind, code in _CODES.items()} | {INTERNAL: errdefs.InternalError}


def code_of(error: BaseException) -> int:
    """The status code that stands for `error`; what is no OrlopError is UNKNOWN."""
    for kind in type(error).__mro__:
        code = _CODES.get(kind)
        if code is not None:
            return code
    return UNKNOWN


def message_of(error: BaseException) -> str:
    """The line of text that travels with the code; never empty."""
    return str(error) or type(error).__name__


def error_for(code: int, message: str) -> errdefs.OrlopError:
    """The error that a peer's status code and message stand for. `code` must not be OK."""
    return _ERRORS.get(code, errdefs.InternalError)(message)
