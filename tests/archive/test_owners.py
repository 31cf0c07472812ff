# SPDX-License-Identifier: Apache-2.0
"""A tar stream whose members are given to others: nothing else of it changes."""

import io
import os
import subprocess
import tarfile

import pytest

from orlop.archive.owners import with_owners
from orlop.archive.tar import ArchiveError


def moved(archive: bytes) -> bytes:
    chunks = (archive[place : place + 700] for place in range(0, len(archive), 700))
    return b"".join(with_owners(chunks, lambda uid, gid: (uid + 1000, gid + 3_000_000)))


def described(archive: bytes) -> list[tuple[object, ...]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        rows = []
        for each in tar:
            data = tar.extractfile(each) if each.isreg() else None
            pax = {key: value for key, value in each.pax_headers.items() if key.startswith("SCHILY")}
            about = (each.name, each.linkname, each.type, each.mode, each.mtime, each.devmajor, each.devminor)
            rows.append((*about, each.size, pax, data.read() if data else b"", each.uid, each.gid))
        return rows


def test_only_owners_change() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, kind in enumerate(
            (tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)
        ):
            info = tarfile.TarInfo(f"{'long/' * 60}{number}ä")
            info.type, info.mode, info.mtime, info.uid, info.gid = kind, 0o4750, 1.5e9, number, 9_000_000
            info.linkname = "there" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            info.devmajor, info.devminor = (1, 3) if kind == tarfile.CHRTYPE else (0, 0)
            info.pax_headers = {"SCHILY.xattr.user.x": "y"} if kind == tarfile.REGTYPE else {}
            content = bytes(range(256)) * 3 if kind == tarfile.REGTYPE else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    before = described(out.getvalue())
    after = described(moved(out.getvalue()))
    assert [row[:-2] for row in after] == [row[:-2] for row in before]
    assert [row[-2:] for row in after] == [(uid + 1000, gid + 3_000_000) for *_, uid, gid in before]  # type: ignore[operator]


def test_sparse_files_are_written_out(tmp_path: object) -> None:
    path = f"{tmp_path}/sparse"
    with open(path, "wb") as file:
        for place in (0, 3 << 20, (5 << 20) + 100):
            file.seek(place)
            file.write(b"data" * 1000)
        file.truncate(7 << 20)
    packed = subprocess.run(
        ["tar", "-C", str(tmp_path), "-Scf", "-", "sparse"], capture_output=True, check=True
    ).stdout
    assert len(packed) < 1 << 20
    (row,) = described(moved(packed))
    with open(path, "rb") as file:
        assert row[9] == file.read()
    assert row[7] == os.stat(path).st_size


def test_a_broken_archive_is_an_error() -> None:
    with pytest.raises(ArchiveError):
        moved(b"x" * 1024)
