"""A disk with Debian 12 boots through firmware and GRUB to a login, and powers off."""

from __future__ import annotations

from pathlib import Path

import pytest

import wirt
from boot_images import ALL_GUESTS, NEEDS_OVMF, NEEDS_SEABIOS, copy_of, debian_image
from wirt.machine.drives import Bus

# The first to need a disk waits until it is made.
pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(1800)]

PATIENCE = 600.0
"""Seconds in which a guest on a busy machine boots or ends."""
VARIABLE = "/sys/firmware/efi/efivars/Wirt-4b1e0f4c-6b0e-4c52-9a93-0c8f3b5d6a11"
NON_VOLATILE = r"\7\0\0\0"
"""NON_VOLATILE, BOOTSERVICE_ACCESS and RUNTIME_ACCESS, as efivarfs wants them in front.

UEFI 2.10, section 8.2.
"""


def log_in(vm: wirt.VM) -> None:
    """Wait for the login on the serial port, and become root there, in a shell that echoes nothing."""
    vm.console.expect(r"debian login: ", PATIENCE)
    vm.console.send("root\n")
    vm.console.expect(r"root@debian:~# ", PATIENCE)
    vm.console.send("exec sh\n")
    vm.console.expect(r"[\r\n]# ", PATIENCE)
    vm.console.send("stty -echo\n")
    vm.console.expect(r"\n# ", PATIENCE)


def output(vm: wirt.VM, command: str) -> str:
    """The output of a command at the shell."""
    vm.console.send(f"{command}; echo @$?\n")
    text, status = vm.console.expect(r"(?s)^(.*)@(\d+)\r\n# ", PATIENCE).groups()
    assert status == b"0", text
    shown: str = text.decode().replace("\r\n", "\n")
    return shown


def power_off(vm: wirt.VM) -> None:
    vm.console.send("poweroff\n")
    result = vm.wait(PATIENCE)
    assert (result.reason, result.exit_status) == ("shutdown", 0)


def boots(image: Path, bus: Bus, machine: str) -> None:
    """SeaBIOS boots the disk to a login; its root filesystem is on that disk, and it powers off in order."""
    disk = wirt.Disk(image, bus=bus)
    with wirt.VM(firmware="seabios", disks=[disk], accel="recompiler") as vm:
        log_in(vm)
        name = "vda" if bus == "virtio" else "sda"
        assert output(vm, "uname -m; findmnt --noheadings --output SOURCE /") == f"{machine}\n/dev/{name}3\n"
        assert output(vm, "systemctl is-system-running --wait") == "running\n"
        power_off(vm)


@NEEDS_SEABIOS
def test_amd64_boots_by_bios(tmp_path: Path) -> None:
    boots(copy_of(debian_image("amd64", "cloud"), tmp_path), "virtio", "x86_64")


@NEEDS_SEABIOS
@ALL_GUESTS
def test_amd64_boots_by_bios_from_an_ide_disk(tmp_path: Path) -> None:
    boots(copy_of(debian_image("amd64", "cloud"), tmp_path), "ide", "x86_64")


@NEEDS_SEABIOS
@ALL_GUESTS
@pytest.mark.parametrize("bus", ["virtio", "ide"])
def test_i386_boots_by_bios(tmp_path: Path, bus: Bus) -> None:
    boots(copy_of(debian_image("i386", "generic"), tmp_path), bus, "i686")


@NEEDS_SEABIOS
@ALL_GUESTS
def test_it_logs_in_by_keyboard_and_screen(tmp_path: Path) -> None:
    disk = copy_of(debian_image("amd64", "cloud"), tmp_path)
    with wirt.VM(firmware="seabios", disks=[disk], accel="recompiler") as vm:
        vm.screen.wait_for(r"debian login:", PATIENCE)
        vm.keyboard.type("root\n")
        vm.screen.wait_for(r"root@debian:~#", PATIENCE)
        vm.keyboard.type("echo $((6 * 7)) | tee /dev/ttyS0\n")
        vm.screen.wait_for(r"\n42\n", PATIENCE)
        vm.console.expect(r"42\r\n", PATIENCE)
        vm.keyboard.press("ctrl-alt-delete")
        # systemd reboots, and the firmware begins anew.
        vm.console.expect(r"(?s)reboot: Restarting system.*debian login: ", PATIENCE)


@NEEDS_OVMF
@ALL_GUESTS
@pytest.mark.parametrize("bus", ["virtio", "ide"])
def test_amd64_boots_by_uefi_and_its_variables_last(tmp_path: Path, bus: Bus) -> None:
    """A variable and a boot entry of the first boot are there in the second, in another machine."""
    disk = wirt.Disk(copy_of(debian_image("amd64", "cloud"), tmp_path), bus=bus)
    nvram = tmp_path / "vars.fd"
    name = "vda" if bus == "virtio" else "sda"
    for boot in (1, 2):
        with wirt.VM(firmware="ovmf", nvram=nvram, disks=[disk], accel="recompiler") as vm:
            log_in(vm)
            if boot == 1:
                output(vm, f"printf '{NON_VOLATILE}kept' >{VARIABLE}")
                output(
                    vm, f"efibootmgr -q -c -d /dev/{name} -p 2 -L 'Made here' -l '\\EFI\\BOOT\\BOOTX64.EFI'"
                )
            assert output(vm, f"cat {VARIABLE} | tail -c +5") == "kept"
            assert "Made here" in output(vm, "efibootmgr")
            power_off(vm)
