# SPDX-License-Identifier: Apache-2.0
"""How a command ends early: with an exit status and at most one message."""

PROGRAM = "orlop"


class ExitError(Exception):
    """Ends the command with `status`; a non-empty text is printed to standard error as it is."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class UsageError(Exception):
    """The command line is wrong; the command's usage is printed behind the text."""
