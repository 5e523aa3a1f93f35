"""What a viewer's server needs of a machine: something to show, keys to press, a pointer to move.

Every viewer has a thread of its own, and all of them call these: implementations take calls from any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Frame(Protocol):
    """One viewer's picture of the screen. Only that viewer's thread uses it, and only `update` changes it."""

    @property
    def width(self) -> int:
        """Pixels in a row."""

    @property
    def height(self) -> int:
        """Rows."""

    @property
    def pixels(self) -> ReadableBuffer:
        """The picture as bytes: rows from top to bottom, for each pixel 32 bits 0x00RRGGBB, little-endian."""

    def update(self) -> Sequence[tuple[int, int, int, int]]:
        """Bring the picture up to date; return what changed since the last call.

        Rectangles are (left, top, width, height). All of the picture has changed at the first call, and when
        its size has, whatever they say.
        """


class Screen(Protocol):
    """A machine's screen."""

    @property
    def arrow(self) -> bool:
        """Whether viewers draw an arrow where their mouse is; False: the guest draws its own pointer."""

    def open_frame(self) -> Frame:
        """Return a new picture of the screen."""


class Keyboard(Protocol):
    """A machine's keyboard."""

    def key(self, code: int, down: bool) -> None:
        """Press or release the key `code`: its scan code of set 1, with 0x80 added where 0xE0 precedes it.

        Pause is 0xC6. Any code from 1 to 255 may come, also of keys that no keyboard has. QEMU's extension of
        RFB calls these XT keycodes ("qnum").
        """


class Pointer(Protocol):
    """A machine's mouse or tablet."""

    def move(self, x: int, y: int, width: int, height: int, buttons: int) -> None:
        """Move to (x, y) of a screen of `width` by `height` pixels, with exactly `buttons` pressed.

        Bits of `buttons`, as RFB has them: 0 left, 1 middle, 2 right; 3 to 6 are one step of a wheel up,
        down, left, right; 7 back.
        """
