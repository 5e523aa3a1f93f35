"""The monitor's sockets: a thread that takes commands from clients and sends them answers and events."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from wirt import unix_socket
from wirt.errors import CapacityError, Error
from wirt.threads import named_thread
from wirt.vm.events import Event
from wirt.vm.monitor.connection import Connection
from wirt.vm.monitor.messages import QmpError, Request, event_line, failure, greeting, success
from wirt.vm.monitor.monitor import Monitor

if TYPE_CHECKING:
    from wirt.vm import VM

MOST_CLIENTS: Final = 32
"""At a time. Others are sent away."""
_MOST_EVENTS: Final = 4096
"""That wait while a command is executed; older ones are lost."""
_LAST_WORDS: Final = 1.0
"""Seconds that clients have in the end to take what was sent to them."""
_NO_DESCRIPTORS: Final = 0.5
"""Seconds until a listener that has run out of something tries again."""


class MonitorServer:
    """Serves QMP for `vm` at the paths of unix sockets, to several clients at a time, until it is closed.

    All commands are executed on its thread, named `monitor`, one after another. `name` is the machine's, if
    it has one. Raises Error when the system does not let it listen.
    """

    def __init__(self, vm: VM, paths: Sequence[str], name: str | None = None) -> None:
        self._vm = vm
        self._connections: list[Connection] = []
        self._events: deque[Event] = deque(maxlen=_MOST_EVENTS)
        """Of the machine, for the thread; others append to it."""
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_numbers = itertools.count()
        self._monitor = Monitor(vm, name, self._later)
        self._ending = threading.Event()
        self._deaf_until = 0.0
        """When connections are accepted again, by the monotonic clock."""
        self._listeners: list[socket.socket] = []
        self._wakeup_lock = threading.Lock()
        self._wakeup: int | None = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """None after the end; the lock is its own."""
        try:
            for path in paths:
                self._listeners.append(_listen(path))
            self._thread = named_thread("monitor", self._run)
            vm.events.subscribe(self._note)
            self._thread.start()
        except BaseException as error:
            vm.events.unsubscribe(self._note)
            self._let_go()
            if isinstance(error, RuntimeError):
                raise CapacityError("The host has no thread for the monitor: raise its limits.") from error
            raise

    def close(self) -> None:
        """Stop listening and send everybody away, with the answers and events that they have to get."""
        if not self._ending.is_set():
            self._vm.events.unsubscribe(self._note)
            self._ending.set()
            self._wake()
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _note(self, event: Event) -> None:
        """Take an event, on any thread."""
        self._events.append(event)
        self._wake()

    def _wake(self) -> None:
        with self._wakeup_lock:
            if self._wakeup is not None:
                # A full counter wakes as well.
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_write(self._wakeup, 1)

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._timer_numbers), what))

    def _run(self) -> None:
        """The thread."""
        try:
            while not self._ending.is_set():
                self._wait()
                self._take_events()
                self._run_timers()
                self._serve()
                self._forget_gone()
            self._say_last_words()
        finally:
            self._let_go()

    def _wait(self) -> None:
        """Wait until there is something to do, and take and send bytes."""
        assert self._wakeup is not None
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        hearing = time.monotonic() >= self._deaf_until
        by_descriptor: dict[int, Connection | socket.socket] = {}
        for listener in self._listeners if hearing else ():
            by_descriptor[listener.fileno()] = listener
            poll.register(listener, select.POLLIN)
        for connection in self._connections:
            by_descriptor[connection.fileno()] = connection
            wanted = select.POLLIN * connection.wants_to_receive | select.POLLOUT * connection.wants_to_send
            poll.register(connection, wanted)
        for descriptor, flags in poll.poll(self._timeout(hearing)):
            match by_descriptor.get(descriptor):
                case Connection() as connection:
                    _exchange(connection, flags)
                case socket.socket() as listener:
                    self._accept(listener)
                case None:
                    os.eventfd_read(self._wakeup)

    def _timeout(self, hearing: bool) -> float | None:
        """Milliseconds until there is something to do anyway; None: never."""
        if any(connection.ready for connection in self._connections):
            return 0
        times = [self._timers[0][0]] if self._timers else []
        if not hearing:
            times.append(self._deaf_until)
        return max(0.0, min(times) - time.monotonic()) * 1000 + 1 if times else None

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError:
            self._deaf_until = time.monotonic() + _NO_DESCRIPTORS
            return
        connection = Connection(accepted)
        if len(self._connections) >= MOST_CLIENTS:
            sentence = f"The monitor has {MOST_CLIENTS} clients already: come again later."
            connection.send(failure(QmpError("GenericError", sentence)))
            connection.close()
            return
        connection.send(greeting(self._monitor.version))
        self._connections.append(connection)

    def _serve(self) -> None:
        """Execute one command of each client."""
        for connection in self._connections:
            if connection.ready and (request := connection.next_request()) is not None:
                answer = self._answer(connection, request)
                # What a command has done is told before its answer, as QEMU does it.
                self._take_events()
                connection.send(answer)

    def _answer(self, connection: Connection, request: Request) -> bytes:
        try:
            if not connection.negotiated:
                return success(_negotiate(connection, request), request.echo)
            if request.command == "qmp_capabilities":
                raise QmpError("CommandNotFound", "The capabilities are negotiated already.")
            return success(self._monitor.execute(request), request.echo)
        except QmpError as error:
            error.echo = request.echo
            return failure(error)
        except Exception as error:
            report = (type(error), error, error.__traceback__, threading.current_thread())
            threading.excepthook(threading.ExceptHookArgs(report))
            mistake = QmpError("GenericError", f"Wirt made a mistake ({type(error).__name__}: {error}).")
            mistake.echo = request.echo
            return failure(mistake)

    def _take_events(self) -> None:
        """Send events to everybody who may have them."""
        while self._events:
            event = self._events.popleft()
            self._monitor.note(event)
            line = event_line(event)
            for connection in self._connections:
                if connection.negotiated and not connection.gone:
                    connection.send(line)

    def _run_timers(self) -> None:
        while self._timers and self._timers[0][0] <= time.monotonic():
            _, _, what = heapq.heappop(self._timers)
            try:
                what()
            except Error:
                # The machine has ended, and with it its keys.
                continue

    def _forget_gone(self) -> None:
        for connection in [connection for connection in self._connections if connection.gone]:
            connection.close()
            self._connections.remove(connection)

    def _say_last_words(self) -> None:
        """Send what clients have to get yet, to those that take it soon."""
        with contextlib.suppress(Error):
            self._monitor.close()
        self._take_events()
        deadline = time.monotonic() + _LAST_WORDS
        poll = select.poll()
        waiting = {connection.fileno(): connection for connection in self._connections}
        for descriptor in waiting:
            poll.register(descriptor, select.POLLOUT)
        while True:
            for descriptor, connection in list(waiting.items()):
                if connection.gone or not connection.wants_to_send:
                    poll.unregister(descriptor)
                    del waiting[descriptor]
            left = deadline - time.monotonic()
            if not waiting or left <= 0:
                return
            for descriptor, _ in poll.poll(left * 1000):
                waiting[descriptor].flush()

    def _let_go(self) -> None:
        for listener in self._listeners:
            unix_socket.close(listener)
        for connection in self._connections:
            connection.close()
        with self._wakeup_lock:
            assert self._wakeup is not None
            os.close(self._wakeup)
            self._wakeup = None


def _exchange(connection: Connection, flags: int) -> None:
    if flags & select.POLLOUT:
        connection.flush()
    if flags & select.POLLIN:
        connection.receive()
    elif flags & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
        connection.gone = True


def _negotiate(connection: Connection, request: Request) -> dict[str, object]:
    """A client's first command. None of QMP's capabilities is offered, so that none can be enabled."""
    if request.command != "qmp_capabilities":
        raise QmpError("CommandNotFound", "Send 'qmp_capabilities' first.")
    for name, value in request.arguments.items():
        if name != "enable" or value != []:
            raise QmpError("GenericError", "This monitor has none of QMP's capabilities: enable none.")
    connection.negotiated = True
    return {}


def _listen(path: str) -> socket.socket:
    try:
        listener = unix_socket.listen(path)
    except OSError as error:
        raise Error(f"The monitor cannot listen at unix:{path}: {error.strerror or error}.") from None
    listener.setblocking(False)
    return listener
