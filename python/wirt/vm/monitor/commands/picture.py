"""The picture of the screen, in a file."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Literal

from wirt.vm.monitor.messages import QmpError

if TYPE_CHECKING:
    from wirt.vm.monitor.monitor import Monitor


def screendump(
    monitor: Monitor,
    filename: str,
    format: Literal["png", "ppm"] = "ppm",
    device: str | None = None,
    head: int = 0,
) -> None:
    """Write what the screen shows to a file, which belongs to the machine's process."""
    if device is not None or head:
        raise QmpError("DeviceNotFound", "The machine has one screen: leave 'device' and 'head' out.")
    picture = monitor.vm.screen.png() if format == "png" else _ppm(monitor)
    # Nobody is waited for: neither a named pipe's reader nor a terminal.
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(filename, flags, 0o666), "wb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise QmpError("GenericError", f"{filename} is no regular file: name another.")
        file.truncate()
        file.write(picture)


def _ppm(monitor: Monitor) -> bytes:
    """The picture as a portable pixmap, format P6."""
    frame = monitor.vm.screen.open_frame()
    frame.update()
    width, height = frame.width, frame.height
    pixels = bytes(frame.pixels)[: 4 * width * height]
    data = bytearray(3 * width * height)
    for colour in range(3):
        data[colour::3] = pixels[2 - colour :: 4]
    return b"P6\n%d %d\n255\n" % (width, height) + data
