"""A machine's CD-ROM drive, as a program exchanges what is in it."""

from __future__ import annotations

import os
from pathlib import Path

from wirt import _core
from wirt.errors import Error
from wirt.storage.raw import open_cdrom


class CdromDrive:
    """A drive. What it holds stays in it when the guest resets the machine."""

    def __init__(self, path: Path | None) -> None:
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
        """Whether the guest has opened the tray."""
        return self.medium.open

    @property
    def locked(self) -> bool:
        """Whether the guest has asked that the disc stays in."""
        return self.medium.locked

    def insert(self, path: str | os.PathLike[str]) -> None:
        """Put the disc with this image in, instead of another, and close the tray; the guest is told.

        Raises Error when there is no such image.
        """
        path = Path(path)
        fd = open_cdrom(path)
        try:
            self.medium.insert(fd, True)
        except _core.CoreError as error:
            raise Error(f"The CD-ROM image {path} cannot be inserted: {error}.") from error
        finally:
            os.close(fd)
        self._path = path

    def eject(self, *, force: bool = False) -> None:
        """Take the disc out. One that the guest has locked stays, and the guest is asked for it, unless
        `force`.

        Raises Error when it stays.
        """
        if self.medium.locked and not force:
            self.medium.request_eject()
            raise Error(
                "The guest has locked the CD-ROM drive and was asked to let go: try again, or use force."
            )
        self.medium.remove()
        self._path = None
