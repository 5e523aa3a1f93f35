"""The table of devices, and what is asked for by name."""

import pytest

import wirt
from wirt.machine import hardware
from wirt.machine.hardware import NamedDevice


def test_a_name_alone_gives_the_defaults() -> None:
    assert hardware.parse("pvpanic") == NamedDevice("pvpanic", (("action", "poweroff"),))
    assert hardware.parse("i6300esb,action=pause") == NamedDevice("i6300esb", (("action", "pause"),))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "There is no device ''"),
        ("e2000", "There is no device 'e2000'"),
        ("i8042", "it is always there"),
        ("pvpanic,action", "'action' is no option of the device pvpanic: it has action="),
        ("pvpanic,colour=red", "'colour=red' is no option"),
        ("isa-debug-exit,action=reset", "it has none"),
        ("pvpanic,action=reset", "cannot have action=reset: use poweroff or pause or none"),
    ],
)
def test_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(wirt.UsageError, match=sentence):
        hardware.parse(text)


@pytest.mark.parametrize("accelerator", ["kvm", "recompiler"])
def test_all_that_have_a_name_fit_into_one_machine(accelerator: str) -> None:
    with wirt.VM(devices=list(hardware.BY_NAME), vga=True, accel=accelerator) as vm:
        names = {name for _, _, _, name in vm.bus_map()}
    assert {"isa-debug-exit", "pvpanic", "hpet", "vga-ports"} <= names


def test_one_of_a_kind() -> None:
    with pytest.raises(wirt.UsageError, match="one pvpanic at most"):
        wirt.VM(devices=["pvpanic", "pvpanic,action=none"])
