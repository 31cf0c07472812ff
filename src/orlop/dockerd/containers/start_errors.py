# SPDX-License-Identifier: Apache-2.0
"""From the text of a failed start to Docker's exit code and error kind: pure."""

from orlop.errdefs import InvalidArgumentError, OrlopError, UnavailableError

EXIT_CANNOT_INVOKE = 126
EXIT_NOT_FOUND = 127
EXIT_UNKNOWN = 128

_NOT_FOUND = (
    "executable file not found",
    "no such file or directory",
    "system cannot find the file specified",
)


def classify(error: OrlopError) -> tuple[int, OrlopError]:
    """The exit code to record and the error to report for what containerd or the runtime said.

    The client decides by the same words in the text whether it exits with 125, 126 or 127.
    """
    text = str(error)
    lowered = text.lower()
    if isinstance(error, UnavailableError):
        return EXIT_UNKNOWN, error
    if "permission denied" in lowered:
        return EXIT_CANNOT_INVOKE, InvalidArgumentError(text)
    if "is a directory" in lowered:
        return EXIT_CANNOT_INVOKE, InvalidArgumentError(f"{text}: permission denied")
    if "not a directory" in lowered:
        hint = (
            "Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path "
            "exists and is the expected type"
        )
        return EXIT_NOT_FOUND, InvalidArgumentError(f"{text}: {hint}")
    if any(words in lowered for words in _NOT_FOUND):
        return EXIT_NOT_FOUND, InvalidArgumentError(text)
    return EXIT_UNKNOWN, error
