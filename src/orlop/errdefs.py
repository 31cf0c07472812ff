# SPDX-License-Identifier: Apache-2.0
"""The one set of errors that every layer raises, after containerd's error kinds.

    OrlopError
    ├── NotFoundError            no such object                     gRPC NOT_FOUND            HTTP 404
    ├── AlreadyExistsError       a name or id is taken              gRPC ALREADY_EXISTS       HTTP 409
    ├── InvalidArgumentError     the caller's input is wrong        gRPC INVALID_ARGUMENT     HTTP 400
    ├── FailedPreconditionError  the object's state forbids it      gRPC FAILED_PRECONDITION  HTTP 409
    ├── ConflictError            another request holds the object   gRPC ABORTED              HTTP 409
    ├── NotModifiedError         already in the wanted state        (none)                    HTTP 304
    ├── UnauthorizedError        who are you?                       gRPC UNAUTHENTICATED      HTTP 401
    ├── PermissionDeniedError    you may not                        gRPC PERMISSION_DENIED    HTTP 403
    ├── UnavailableError         a peer does not answer             gRPC UNAVAILABLE          HTTP 503
    ├── OutOfRangeError          an offset outside the object       gRPC OUT_OF_RANGE         HTTP 400
    ├── ResourceExhaustedError   disk full, table full              gRPC RESOURCE_EXHAUSTED   HTTP 500
    ├── DeadlineExceededError    it took too long                   gRPC DEADLINE_EXCEEDED    HTTP 504
    ├── CanceledError            the caller went away               gRPC CANCELLED            HTTP 499
    ├── NotImplementedByUsError  a feature that is off or absent    gRPC UNIMPLEMENTED        HTTP 501
    ├── DataLossError            stored bytes are not what they should be   gRPC DATA_LOSS    HTTP 500
    └── InternalError            anything else                      gRPC UNKNOWN              HTTP 500

Messages are lower-case, have no full stop, and name the object and the cause. An error is translated to a
protocol's own form once, at the edge (`orlop.rpc.status`, `orlop.dockerd.api.errors`), and reported once.
"""


class OrlopError(Exception):
    """Base of every error that orlop raises on purpose. `str(error)` is the line for the user."""


class NotFoundError(OrlopError):
    """The named object does not exist."""


class AlreadyExistsError(OrlopError):
    """An object of that name or id exists already."""


class InvalidArgumentError(OrlopError):
    """The input is malformed; the message names the field or flag and what was expected."""


class FailedPreconditionError(OrlopError):
    """The object is in a state that does not allow the operation."""


class ConflictError(OrlopError):
    """Another operation holds the object or the name."""


class NotModifiedError(OrlopError):
    """The object is already in the state that was asked for."""


class UnauthorizedError(OrlopError):
    """No or wrong credentials."""


class PermissionDeniedError(OrlopError):
    """The credentials do not allow the operation."""


class UnavailableError(OrlopError):
    """A peer that is needed does not answer; trying again later may help."""


class OutOfRangeError(OrlopError):
    """An offset or size lies outside the object."""


class ResourceExhaustedError(OrlopError):
    """A disk, table or quota is full."""


class DeadlineExceededError(OrlopError):
    """The operation did not end within its time limit."""


class CanceledError(OrlopError):
    """The caller gave the operation up."""


class NotImplementedByUsError(OrlopError):
    """The feature is off or does not exist here."""


class DataLossError(OrlopError):
    """Stored or received bytes are not what their digest or size says."""


class InternalError(OrlopError):
    """An error that has no more specific kind."""
