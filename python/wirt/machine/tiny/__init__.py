"""The built-in guest "tiny": Debian's newest cloud kernel, BusyBox, and the virtio drivers in an initramfs.

It is made once, of packages that apt fetches and verifies without root, and kept in the user's cache.

    guest = ensure()
    boot(guest.kernel, guest.initrd)                        # a shell on the console
    boot(guest.kernel, exec_initrd(guest, "uname -a", nonce))  # one command
"""

import re
from pathlib import Path

from wirt.machine.tiny import cache, cpio
from wirt.machine.tiny.cache import TinyError, TinyGuest
from wirt.machine.tiny.progress import Progress, TerminalProgress

__all__ = ["Progress", "TinyError", "TinyGuest", "ensure", "exec_initrd", "refresh"]

_NONCE = re.compile(r"[0-9A-Za-z]{1,64}")


def ensure(directory: Path | None = None, progress: Progress | None = None) -> TinyGuest:
    """Return the guest, making it first if the cache does not hold it whole.

    `directory` is Wirt's cache, `$XDG_CACHE_HOME/wirt` by default. `progress` is told of the steps; by
    default they are shown on stderr if it is a terminal. The first time uses the network. Raises TinyError.
    """
    return _prepare(directory, progress, refresh=False)


def refresh(directory: Path | None = None, progress: Progress | None = None) -> TinyGuest:
    """Return the guest of the newest packages the archive offers, made as by ensure() for the first time."""
    return _prepare(directory, progress, refresh=True)


def exec_initrd(guest: TinyGuest, command: str, nonce: str) -> bytes:
    r"""Return an initrd with which the guest runs the shell script `command`, then powers off.

    The guest's console then carries, among the kernel's messages if there are any,

        \x1e@@WIRT-BEGIN NONCE\n  stdout and stderr, byte for byte  \x1e@@WIRT-END NONCE STATUS\n

    where STATUS is its exit status, 0 to 255. `nonce` is 1 to 64 letters and digits which the command cannot
    guess, so that its own output cannot end the frame. Raises ValueError for another nonce, TinyError if the
    cache went away.
    """
    if not _NONCE.fullmatch(nonce):
        raise ValueError("a nonce has 1 to 64 letters and digits")
    files = {"wirt/exec": command.encode("utf-8", "surrogateescape"), "wirt/nonce": f"{nonce}\n".encode()}
    try:
        return cpio.append_files(guest.initrd.read_bytes(), files)
    except OSError as error:
        raise TinyError(
            f"The tiny guest's initrd {guest.initrd} cannot be read: {error.strerror}."
        ) from error


def _prepare(directory: Path | None, progress: Progress | None, *, refresh: bool) -> TinyGuest:
    if progress is not None:
        return cache.prepare(directory or cache.default_directory(), progress, refresh=refresh)
    bar = TerminalProgress()
    try:
        return cache.prepare(directory or cache.default_directory(), bar, refresh=refresh)
    finally:
        bar.close()
