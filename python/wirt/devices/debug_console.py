"""The debug port 0x402 that SeaBIOS and OVMF print to."""

from __future__ import annotations

from typing import BinaryIO

from wirt.devices.device import Device


class DebugConsole(Device):
    """Bytes written go to `output`, unbuffered; a read returns 0xE9, by which firmware finds the port."""

    ports = range(0x402, 0x403)
    sizes = (1, 1)

    def __init__(self, output: BinaryIO) -> None:
        self._output = output

    @property
    def name(self) -> str:
        return "debug-console"

    def read(self, offset: int, size: int) -> int:
        return 0xE9

    def write(self, offset: int, size: int, value: int) -> None:
        self._output.write(bytes((value,)))
        self._output.flush()
