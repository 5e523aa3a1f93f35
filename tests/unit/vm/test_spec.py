"""Bad input: each ends in one sentence and a status that says which kind it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import wirt
from wirt.machine.drives import Disk
from wirt.vm.spec import make_spec


def spec(**wishes: Any) -> Any:
    defaults: dict[str, Any] = {
        "guest": None,
        "kernel": None,
        "initrd": None,
        "append": None,
        "memory": "64M",
        "cpus": 1,
        "cpu": "host",
        "disks": (),
        "devices": (),
    }
    return make_spec(**(defaults | wishes))


@pytest.mark.parametrize(
    ("wishes", "status", "says"),
    [
        ({"memory": "lots"}, 2, "is no size"),
        ({"memory": "4K"}, 2, "at least 1 MiB"),
        ({"memory": (2 << 20) + 1}, 2, "no multiple of 4 KiB"),
        ({"memory": "900T"}, 4, "more than this host has"),
        ({"cpu": "x86-64-v1"}, 2, "no processor model 'x86-64-v1': use host, x86-64-v2"),
        ({"cpus": 0}, 2, "1 to 255 vCPUs"),
        ({"cpus": 256}, 2, "1 to 255 vCPUs"),
        ({"cpus": 1.5}, 2, "1 to 255 vCPUs"),
        ({"guest": "huge"}, 2, "no built-in guest 'huge'"),
        ({"guest": "tiny", "kernel": b"x"}, 2, "brings its own kernel"),
        ({"initrd": b"x"}, 2, "need"),
        ({"append": "quiet"}, 2, "need"),
        ({"kernel": "/nowhere/vmlinuz"}, 3, "kernel /nowhere/vmlinuz does not exist"),
        ({"kernel": ""}, 2, "kernel's name is empty"),
        ({"kernel": b"x", "append": b"quiet"}, 2, "command line is given as bytes"),
        ({"disks": "disk.img"}, 2, r"disks=\['disk.img'\]"),
        ({"devices": "isa-debug-exit"}, 2, r"devices=\['isa-debug-exit'\]"),
        ({"kernel": "/proc"}, 2, "kernel /proc is a directory"),
        ({"kernel": "/dev/null"}, 2, "kernel /dev/null is not a regular file"),
        ({"kernel": "a\0b"}, 3, "cannot be looked at"),
        ({"disks": ["/nowhere/disk"]}, 3, "disk /nowhere/disk does not exist"),
        ({"disks": ["/"]}, 2, "disk / is a directory"),
        ({"disks": ["/dev/null"]}, 2, "disk /dev/null is not a regular file or a block device"),
        ({"disks": ["/dev/null"] * 40}, 2, "at most 27 disks"),
        ({"fw_cfg": {"etc/e820": b""}}, 2, "'etc/e820' is no name"),
        ({"fw_cfg": {"opt/": b""}}, 2, "'opt/' is no name"),
        ({"fw_cfg": {"opt/" + "x" * 52: b""}}, 2, "at most 55 characters"),
        ({"fw_cfg": {"opt/\n": b""}}, 2, "printable ASCII"),
        ({"fw_cfg": {"opt/x": "text"}}, 2, "opt/x is given as str: give bytes"),
        ({"fw_cfg": {f"opt/{n}": b"" for n in range(1001)}}, 2, "at most 1000 files, not 1001"),
        ({"nets": "isolated"}, 2, r"nets=\['isolated'\]"),
        ({"nets": ["none", "isolated"]}, 2, "leave none out"),
        ({"nets": ["isolated,rom=/nowhere/rom"]}, 3, "expansion ROM /nowhere/rom does not exist"),
        ({"boot": "net"}, 2, "No network card could boot"),
        ({"devices": ["flux-capacitor"]}, 2, "no device 'flux-capacitor'"),
    ],
)
def test_refused_with_a_sentence(wishes: dict[str, Any], status: int, says: str) -> None:
    with pytest.raises(wirt.Error, match=says) as caught:
        spec(**wishes)
    assert caught.value.exit_status == status
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission_are_refused(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x")
    image.chmod(0o400)
    assert spec(disks=[wirt.Disk(image, readonly=True)]).disks[0].readonly
    with pytest.raises(wirt.UsageError, match="may not be written"):
        spec(disks=[image])
    image.chmod(0)
    with pytest.raises(wirt.UsageError, match="may not be read"):
        spec(kernel=image)


def test_a_disk_that_another_machine_has_is_refused(tmp_path: Path) -> None:
    from wirt.storage.raw import open_raw

    image = tmp_path / "disk"
    image.write_bytes(bytes(512))
    reader = open_raw(image, readonly=True)
    other = open_raw(image, readonly=True)
    with pytest.raises(wirt.Error, match="in use by another machine"):
        open_raw(image, readonly=False)
    os.close(other)
    os.close(reader)
    os.close(open_raw(image, readonly=False))


def test_each_machine_has_a_random_uuid_of_its_own() -> None:
    one, other = UUID(bytes=spec().uuid), UUID(bytes=spec().uuid)
    assert one != other
    assert one.version == other.version == 4


def test_one_file_as_two_disks_is_refused_unless_nobody_writes(tmp_path: Path) -> None:
    image, link = tmp_path / "image", tmp_path / "link"
    image.write_bytes(bytes(512))
    link.symlink_to(image)
    for first in (image, Disk(image, readonly=True)):
        with pytest.raises(wirt.UsageError, match="are one file"):
            spec(disks=[first, link])
    both = [Disk(image, readonly=True), Disk(link, readonly=True)]
    assert spec(disks=both).disks == tuple(both)
