"""A machine's floppy drive, as a program exchanges what is in it."""

from __future__ import annotations

import os
from pathlib import Path

from wirt import _core
from wirt.errors import Error
from wirt.machine.drives import Floppy
from wirt.storage.raw import open_floppy


class FloppyDrive:
    """A drive for disks like the first one in it; for 1.44 MB when it begins empty. What it holds stays in
    it when the guest resets the machine.
    """

    def __init__(self, floppy: Floppy | None) -> None:
        self.medium = _core.Medium()
        self.disk_size: int | None = None
        """Bytes of the first disk, which decide what the drive is; None: it began empty."""
        self._path: Path | None = None
        if floppy is not None:
            self.disk_size = self._insert(*floppy)

    @property
    def path(self) -> Path | None:
        """The image in it; None: it is empty."""
        return self._path

    def insert(self, path: str | os.PathLike[str], *, readonly: bool = False) -> None:
        """Put the disk with this image in, instead of another; the guest finds that at its next access.

        A disk of another size than the drive is for may be one that it cannot read. Raises Error when there
        is no such image.
        """
        self._insert(Path(path), readonly)

    def eject(self) -> None:
        """Take the disk out. What the guest has not written yet is lost for it, as with a real one."""
        self.medium.remove()
        self._path = None

    def _insert(self, path: Path, readonly: bool) -> int:
        fd, size = open_floppy(path, readonly=readonly)
        try:
            self.medium.insert(fd, readonly)
        except _core.CoreError as error:
            raise Error(f"The floppy image {path} cannot be inserted: {error}.") from error
        finally:
            os.close(fd)
        self._path = path
        return size
