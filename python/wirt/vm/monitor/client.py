"""A client of a monitor: Wirt's own, or any other QMP server at a unix socket."""

from __future__ import annotations

import json
import socket
import time
from types import TracebackType
from typing import Any, Final, Self

from wirt.errors import Error, NotFoundError, WaitTimeout

PATIENCE: Final = 10.0
"""Seconds for an answer."""
_PROCESS_END: Final = 5.0
"""Seconds that a process has for its end, once its machine has ended."""
_LONGEST_LINE: Final = 1 << 24
_PIECE: Final = 1 << 16


class Client:
    """A connection to the monitor at `path`, ready for commands.

    Raises NotFoundError when nobody listens there, Error when what listens does not answer as a monitor.
    """

    def __init__(self, path: str, patience: float = PATIENCE) -> None:
        self._path = path
        self._patience = patience
        self._received = b""
        self._shut_down = False
        """Whether the machine has told of its end."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connect()
            if not isinstance(self._message(time.monotonic() + patience).get("QMP"), dict):
                raise Error(f"What listens at {path} is no monitor: it does not greet as one.")
            self.execute("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def execute(self, command: str, **arguments: object) -> Any:
        """Execute a command and return its result. Raises Error with what the monitor says.

        "-" in the names of arguments is "_" here.
        """
        deadline = time.monotonic() + self._patience
        request: dict[str, object] = {"execute": command}
        if arguments:
            request["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._send(json.dumps(request).encode() + b"\n")
        while True:
            message = self._message(deadline)
            if "return" in message:
                return message["return"]
            if isinstance(error := message.get("error"), dict):
                raise Error(str(error.get("desc") or f"The monitor refuses {command}."))

    def wait_for_end(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until the machine has ended and, if it does so soon, its process;
        false when it runs on.
        """
        deadline = time.monotonic() + timeout
        try:
            while not self._shut_down:
                self._message(deadline)
            deadline = time.monotonic() + _PROCESS_END
            while True:
                self._message(deadline)
        except WaitTimeout:
            return self._shut_down
        except Error:
            # The process has ended, and with it the connection.
            return True

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self) -> None:
        self._socket.settimeout(self._patience)
        try:
            self._socket.connect(self._path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotFoundError(f"No monitor listens at {self._path}.") from None
        except BlockingIOError:
            raise self._no_answer() from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise Error(f"The monitor at {self._path} cannot be reached: {reason}.") from None

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise self._no_answer() from None
        except OSError as error:
            raise self._ended() from error

    def _message(self, deadline: float) -> dict[str, Any]:
        """Return the next message that came."""
        while b"\n" not in self._received:
            self._receive(deadline)
        line, _, self._received = self._received.partition(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise Error(f"What listens at {self._path} is no monitor: it sends no JSON objects.")
        self._shut_down = self._shut_down or message.get("event") == "SHUTDOWN"
        return message

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._no_answer()
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(_PIECE)
        except TimeoutError:
            raise self._no_answer() from None
        except OSError as error:
            raise self._ended() from error
        if not data or len(self._received) > _LONGEST_LINE:
            raise self._ended()
        self._received += data

    def _no_answer(self) -> WaitTimeout:
        return WaitTimeout(f"The monitor at {self._path} did not answer in {self._patience:g} s.")

    def _ended(self) -> Error:
        return Error(f"The monitor at {self._path} ended the connection.")
