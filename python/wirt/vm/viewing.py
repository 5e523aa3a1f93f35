"""`display` of a machine: what it asks for, and the server that gives it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from wirt.errors import Error, NotFoundError, UsageError

if TYPE_CHECKING:
    from wirt.display.screen import Keyboard, Pointer, Screen
    from wirt.display.server import Server

FIRST_PORT: Final = 5900
LAST_PORT: Final = 5999
"""Where VNC servers listen that were not told, the first that is free."""
_OPTION: Final = re.compile(r",(password|password-file|token-file|layout)=([^,]*)$")
_MAX_SECRET: Final = 256


class Display(NamedTuple):
    """A VNC server: where it listens (None: the first free port from FIRST_PORT on), and for whom."""

    listen: str | None
    password: str | None = None
    token: str | None = None
    layout: str = "us"


def parse_display(text: str) -> Display:
    """Read
    vnc[:PORT|:HOST:PORT|:unix:PATH][,password=TEXT|,password-file=FILE][,token-file=FILE][,layout=NAME].

    Raises UsageError, or NotFoundError for a file that cannot be read.
    """
    rest, options = text, {}
    while match := _OPTION.search(rest):
        rest = rest[: match.start()]
        options[match[1]] = match[2]
    kind, colon, where = rest.partition(":")
    if kind != "vnc" or (colon and not where):
        raise UsageError(
            f"{text!r} is no display: use vnc, vnc:PORT, vnc:HOST:PORT or vnc:unix:PATH, and after a comma "
            "password=, "
            "password-file=, token-file= or layout=."
        )
    if "password" in options and "password-file" in options:
        raise UsageError("The display has a password and a password-file: leave one of the two out.")
    password = options.get("password")
    if "password-file" in options:
        password = _secret(options["password-file"])
    token = _secret(options["token-file"]) if "token-file" in options else None
    listen = None if not where else f":{where}" if where.isdecimal() else where
    return Display(listen, password, token, options.get("layout", "us"))


def serve(
    display: Display, screen: Screen, keyboard: Keyboard, pointer: Pointer, log: Callable[[str], object]
) -> Server:
    """Start the server. Raises UsageError or Error with a sentence."""
    from wirt.display.server import Server  # Machines that nobody looks at do not pay for it.

    def start(listen: str) -> Server:
        return Server(
            screen,
            keyboard,
            pointer,
            listen=listen,
            password=display.password,
            token=display.token,
            layout=display.layout,
            log=log,
        )

    if display.listen is not None:
        return start(display.listen)
    for port in range(FIRST_PORT, LAST_PORT):
        try:
            return start(f":{port}")
        except UsageError:
            raise
        except Error:
            continue
    return start(f":{LAST_PORT}")


def _secret(path: str) -> str:
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            return file.readline(_MAX_SECRET).rstrip("\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NotFoundError(f"The file {path} with the display's secret cannot be read: {reason}.") from None
