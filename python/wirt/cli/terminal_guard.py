"""What brings a terminal back when this process is killed and cannot do it itself."""

from __future__ import annotations

import contextlib
import subprocess
from typing import Final, Self

_SCRIPT: Final = 'read -r dismissed || stty "$1" <&1'
"""Without a line, the end of the pipe is the end of the process that held it. stty works on its standard
input.
"""


class TerminalGuard:
    """A small process that waits for this one's end, and then sets terminal `fd` to the modes of `post`.

    It has a session of its own: no signal to this process's group reaches it, and it may set the modes of a
    terminal that a shell has taken back meanwhile.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    def post(cls, fd: int) -> Self | None:
        """Start one for the modes that the terminal has now; None on a host that cannot."""
        try:
            modes = subprocess.run(
                ["stty", "-g"], stdin=fd, capture_output=True, check=True, text=True
            ).stdout
            return cls(
                subprocess.Popen(
                    ["/bin/sh", "-c", _SCRIPT, "wirt-terminal", modes.strip()],
                    stdin=subprocess.PIPE,
                    stdout=fd,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
        except (OSError, subprocess.CalledProcessError):
            return None

    def dismiss(self) -> None:
        """End it without a change to the terminal."""
        with contextlib.suppress(OSError):
            self._process.communicate(b"\n")
