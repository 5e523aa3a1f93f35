"""A machine's CD-ROM drive, as a program exchanges what is in it."""

from __future__ import annotations

import os
from pathlib import Path

from wirt import _core
from wirt.errors import Error
from wirt.storage.raw import open_cdrom
from wirt.vm.events import Events


class CdromDrive:
    """A drive. What it holds stays in it when the guest resets the machine.

    `name` is its name in events and in the monitor.
    """

    def __init__(self, path: Path | None, name: str) -> None:
        self.name = name
        self.medium = _core.Medium()
        self._path: Path | None = None
        if path is not None:
            self.insert(path)

    @property
    def path(self) -> Path | None:
        """The image in it; None: it is empty."""
        return self._path

    @property
    def open(self) -> bool:
        """Whether the tray is open: the guest has opened it, or `open_tray`."""
        return self.medium.open

    @property
    def locked(self) -> bool:
        """Whether the guest has asked that the disc stays in."""
        return self.medium.locked

    def insert(self, path: str | os.PathLike[str], *, force: bool = True) -> None:
        """Put the disc with this image in, instead of another, and close the tray; the guest is told.

        Without `force`, a disc that the guest has locked stays, as in `eject`. Raises Error when it stays,
        and when there is no such image.
        """
        path = Path(path)
        fd = open_cdrom(path)
        try:
            self._take_out(force)
            self.medium.insert(fd, True)
        except _core.CoreError as error:
            raise Error(f"The CD-ROM image {path} cannot be inserted: {error}.") from error
        finally:
            os.close(fd)
        self._path = path

    def eject(self, *, force: bool = False) -> None:
        """Take the disc out and close the tray. One that the guest has locked stays, and the guest is asked
        for it, unless `force`.

        Raises Error when it stays.
        """
        self._take_out(force)
        self.medium.remove()
        self._path = None

    def open_tray(self, *, force: bool = False) -> None:
        """Open the tray, so that the disc cannot be read. Where the guest has locked it, it is asked to do
        so, unless `force`.
        """
        if self.locked and not self.open and not force:
            self.medium.request_eject()
        else:
            self.medium.set_open(True)

    def close_tray(self) -> None:
        """Close the tray with what is in it."""
        self.medium.set_open(False)

    def watch(self, events: Events) -> None:
        """Tell of the tray's movements from now on, whoever moves it, by the event DEVICE_TRAY_MOVED."""
        name = self.name

        def told(open: bool) -> None:
            events.publish("DEVICE_TRAY_MOVED", device=name, id=name, **{"tray-open": open})

        self.medium.watch(told)

    def _take_out(self, force: bool) -> None:
        """Open the tray. Raises Error when the guest has locked it."""
        self.open_tray(force=force)
        if not self.open:
            raise Error(
                "The guest has locked the CD-ROM drive and was asked to let go: try again, or use force."
            )
