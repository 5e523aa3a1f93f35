"""The arrow that viewers draw where their mouse is, while the guest draws none."""

from __future__ import annotations

from typing import Final

_ROWS: Final = (
    "#           ",
    "##          ",
    "#.#         ",
    "#..#        ",
    "#...#       ",
    "#....#      ",
    "#.....#     ",
    "#......#    ",
    "#.......#   ",
    "#........#  ",
    "#.....##### ",
    "#..#..#     ",
    "#.# #..#    ",
    "##  #..#    ",
    "#    #..#   ",
    "     #..#   ",
    "      ##    ",
)
"""# is black, . white; the rest is not drawn. The tip, at the top left, is where it points."""
WIDTH: Final = len(_ROWS[0])
HEIGHT: Final = len(_ROWS)


class _Picture:
    """The colours, as a frame that never changes."""

    width = WIDTH
    height = HEIGHT
    pixels = b"".join(b"\xff\xff\xff\0" if pixel == "." else b"\0\0\0\0" for row in _ROWS for pixel in row)


PICTURE: Final = _Picture()
MASK: Final = b"".join(
    int("".join("0" if pixel == " " else "1" for pixel in row).ljust(16, "0"), 2).to_bytes(2, "big")
    for row in _ROWS
)
"""Which pixels are drawn: a bit each, the leftmost the highest, rows filled to whole bytes."""
