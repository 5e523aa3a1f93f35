"""Commands that are a keyboard and a mouse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wirt.display.keymaps import KEYS
from wirt.vm.monitor.messages import QmpError

if TYPE_CHECKING:
    from wirt.vm.monitor.monitor import Monitor

ABSOLUTE: int = 0x7FFF
"""The last place of an axis: the right or lower edge of the screen."""
MOST_STEPS: int = 1 << 16
"""Of a relative movement, in one event."""
_BUTTONS = {
    name: 1 << bit
    for bit, name in enumerate(
        ("left", "middle", "right", "wheel-up", "wheel-down", "wheel-left", "wheel-right", "side")
    )
}
"""The bits of `wirt.display.screen.Pointer`."""
BUTTONS = tuple(_BUTTONS)


def send_key(monitor: Monitor, keys: list[tuple[str, Any]], hold_time: int = 100) -> None:
    """Press keys together, hold them for so many milliseconds, and let them go. Does not wait for that."""
    monitor.typist.play([_code(key) for key in keys], hold_time / 1000)


def input_send_event(
    monitor: Monitor, events: list[tuple[str, Any]], device: str | None = None, head: int = 0
) -> None:
    """Press or let go of keys and buttons, and move the mouse. All events are looked at before the first is
    done.
    """
    if device is not None or head:
        raise QmpError("DeviceNotFound", "The machine has one screen: leave 'device' and 'head' out.")
    codes = {index: _code(data["key"]) for index, (kind, data) in enumerate(events) if kind == "key"}
    hand = monitor.hand
    for index, (kind, data) in enumerate(events):
        match kind:
            case "key":
                monitor.vm.keyboard.key(codes[index], data["down"])
            case "btn":
                hand.press(_BUTTONS[data["button"]], data["down"])
            case "rel":
                hand.move_by(data["axis"], data["value"])
            case "abs":
                hand.move_to(data["axis"], data["value"])
    hand.finish()


def _code(key: tuple[str, Any]) -> int:
    """A key's scan code of set 1, with 0x80 where 0xE0 precedes it."""
    kind, value = key
    if kind == "number":
        return int(value)
    try:
        return KEYS[value]
    except KeyError:
        raise QmpError("GenericError", f"There is no key {value[:80]!r}.") from None
