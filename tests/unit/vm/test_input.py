"""What a viewer's mouse does to a machine's pointers."""

from __future__ import annotations

from typing import cast

import pytest

from wirt import _core
from wirt.vm.input import Mouse


class FakeMachine:
    """Remembers what its pointers were told."""

    def __init__(self) -> None:
        self.listens_to_tablet = False
        self.moved: list[tuple[int, int, int, int]] = []
        self.placed: list[tuple[int, int, int, int]] = []

    def mouse(self, dx: int, dy: int, dz: int, buttons: int) -> None:
        self.moved.append((dx, dy, dz, buttons))

    def tablet(self, x: int, y: int, wheel: int, buttons: int) -> bool:
        if self.listens_to_tablet:
            self.placed.append((x, y, wheel, buttons))
        return self.listens_to_tablet


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


@pytest.fixture
def mouse(machine: FakeMachine) -> Mouse:
    return Mouse(lambda: cast(_core.Machine, machine))


def test_the_mouse_goes_the_way_from_the_last_place(machine: FakeMachine, mouse: Mouse) -> None:
    mouse.move(100, 50, 640, 480, 0)
    mouse.move(90, 60, 640, 480, 0b00110)
    mouse.move(90, 60, 640, 480, 1 << 3)
    assert machine.moved == [(0, 0, 0, 0), (-10, 10, 0, 0b110), (0, 0, -1, 0)]


@pytest.mark.parametrize("width", [1, 640, 800, 1024, 1366, 1920, 3840])
def test_the_tablet_points_at_each_pixel(machine: FakeMachine, mouse: Mouse, width: int) -> None:
    machine.listens_to_tablet = True
    for x in range(width):
        mouse.move(x, 0, width, 1, 0)
    assert [x * width // 0x8000 for x, _, _, _ in machine.placed] == list(range(width))
    assert machine.placed[-1][0] <= 0x7FFF


def test_a_button_held_while_the_tablet_comes_into_use_is_let_go(machine: FakeMachine, mouse: Mouse) -> None:
    mouse.move(5, 5, 640, 480, 1)
    machine.listens_to_tablet = True
    mouse.move(5, 5, 640, 480, 1 | 1 << 4)
    mouse.move(6, 5, 640, 480, 0)
    assert machine.moved == [(0, 0, 0, 1), (0, 0, 0, 0)]
    assert [(wheel, buttons) for _, _, wheel, buttons in machine.placed] == [(1, 1), (0, 0)]


def test_a_screen_without_pixels_is_harmless(machine: FakeMachine, mouse: Mouse) -> None:
    machine.listens_to_tablet = True
    mouse.move(7, 7, 0, 0, 0)
    assert machine.placed == [(0, 0, 0, 0)]
