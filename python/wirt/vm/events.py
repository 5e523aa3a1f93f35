"""What happens to a machine, told to whoever wants to know."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

EventName = Literal[
    "STOP",
    "RESUME",
    "RESET",
    "POWERDOWN",
    "SHUTDOWN",
    "GUEST_PANICKED",
    "GUEST_CRASHLOADED",
    "WATCHDOG",
    "BLOCK_IO_ERROR",
    "DEVICE_TRAY_MOVED",
]
"""Events have the names and the data that QMP gives them: qapi/run-state.json, block.json and machine.json of
QEMU.
"""


class Event(NamedTuple):
    """Something that happened. `time` is in seconds since 1970."""

    name: EventName
    data: Mapping[str, object]
    time: float


Listener = Callable[[Event], None]


class Events:
    """A machine's events. May be used from any thread."""

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._listeners: tuple[Listener, ...] = ()

    def subscribe(self, listener: Listener) -> None:
        """Have `listener` called with each event from now on.

        It runs on the thread where things happen, which may be a vCPU's: it returns soon, and waits for
        nothing that the machine does.
        """
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Have it called no more; a call that has begun may still go on."""
        with self._lock:
            self._listeners = tuple(other for other in self._listeners if other != listener)

    def publish(self, name: EventName, **data: object) -> None:
        """Tell everybody. What a listener raises is reported as what a thread raises."""
        event = Event(name, data, time.time())
        for listener in self._listeners:
            try:
                listener(event)
            except Exception as error:
                report = (type(error), error, error.__traceback__, threading.current_thread())
                threading.excepthook(threading.ExceptHookArgs(report))
