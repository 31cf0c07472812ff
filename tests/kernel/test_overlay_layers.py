# SPDX-License-Identifier: Apache-2.0
"""Overlays of many layers, by the way of today's kernels and by that of the ones before 6.5."""

import os
import threading

import pytest

from orlop.unix import mount, overlay

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.getuid() != 0, reason="needs root")]


def tree(path, count):
    layers = []
    for number in range(count):
        layer = path / "a-directory-with-a-name-as-long-as-those-that-containerd-makes" / str(number) / "fs"
        layer.mkdir(parents=True)
        (layer / f"file{number}").write_text("")
        layers.append(str(layer))
    for name in ("upper", "work"):
        (path / name).mkdir()
    return layers, [f"upperdir={path}/upper", f"workdir={path}/work", "index=off"]


def mounted(path):
    """Those mounts that have to do with a directory: other tests make theirs meanwhile."""
    with open("/proc/self/mountinfo") as file:
        return [line for line in file if str(path) in line]


@pytest.mark.parametrize("count", [1, 3, 12, 60])
@pytest.mark.parametrize("old", [True, False])
def test_layers_of_an_overlay(tmp_path, monkeypatch, count, old):
    if not old and not overlay.layers_one_by_one():
        pytest.skip("Linux 6.5 or newer")
    monkeypatch.setattr(overlay, "layers_one_by_one", lambda: not old)
    layers, data = tree(tmp_path, count)
    fd = mount.detached_mount("overlay", "overlay", [*data, f"lowerdir={':'.join(layers)}"])
    try:
        assert not mounted(tmp_path) and threading.active_count() == 1
        root = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        try:
            assert sorted(os.listdir(root)) == sorted(f"file{number}" for number in range(count))
            os.mkdir("new", dir_fd=root)
        finally:
            os.close(root)
    finally:
        os.close(fd)
    assert os.listdir(tmp_path / "upper") == ["new"]


def test_what_the_kernel_refuses_is_raised(tmp_path):
    layers, _ = tree(tmp_path, 60)
    with pytest.raises(OSError, match="No such file"):
        overlay.detached_overlay([*layers, "/no/such/layer"], [])
    with pytest.raises(OSError, match="Invalid argument"):
        overlay.detached_overlay(layers, ["nonsense=1"])
