# SPDX-License-Identifier: Apache-2.0
"""Errors to codes and back; the stdcopy framing."""

import inspect

import pytest

from orlop import errdefs
from orlop.rpc import status, stdcopy

KINDS = [
    kind
    for _, kind in inspect.getmembers(errdefs, inspect.isclass)
    if issubclass(kind, errdefs.OrlopError) and kind not in (errdefs.OrlopError, errdefs.NotModifiedError)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_survives_the_wire(kind: type[errdefs.OrlopError]) -> None:
    back = status.error_for(status.code_of(kind("x")), "x")
    assert type(back) is kind
    assert str(back) == "x"


def test_foreign_errors_and_codes() -> None:
    class Special(errdefs.NotFoundError):
        pass

    assert status.code_of(Special("x")) == 5
    assert status.code_of(ValueError("x")) == 2
    assert status.message_of(ValueError()) == "ValueError"
    assert type(status.error_for(13, "x")) is errdefs.InternalError
    assert type(status.error_for(99, "x")) is errdefs.InternalError


def test_stdcopy_frames_survive_any_cut() -> None:
    frames = [(1, b"out"), (2, b""), (2, b"err" * 1000), (0, b"x"), (3, b"boom")]
    stream = b"".join(stdcopy.encode(kind, data) for kind, data in frames)
    assert stream[:8] == b"\x01\0\0\0\0\0\0\x03"
    for size in (1, 7, 8, 9, 4096):
        decoder = stdcopy.Decoder()
        assert [f for at in range(0, len(stream), size) for f in decoder.feed(stream[at : at + size])] == frames
        assert decoder.pending == 0


def test_stdcopy_refuses_an_unknown_stream() -> None:
    with pytest.raises(errdefs.DataLossError, match="unrecognized stream 71"):
        stdcopy.Decoder().feed(b"GET / HTTP/1.1\r\n")
