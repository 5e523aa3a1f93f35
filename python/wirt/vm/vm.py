"""One virtual machine as a Python object."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from wirt import _core
from wirt.devices.device import Device
from wirt.errors import CapacityError, ClosedError, Error, UsageError, WaitTimeout
from wirt.machine import boot
from wirt.machine.drives import Cdrom, Disk
from wirt.machine.pc import NO_INSTRUMENTS, FarEnds, Instruments, Pc, PcConfig, assemble
from wirt.storage.nvram import open_variables
from wirt.threads import named_thread
from wirt.vm.accelerator import choose
from wirt.vm.balloon import Balloon
from wirt.vm.cdrom import CdromDrive
from wirt.vm.console import HISTORY, Console
from wirt.vm.input import Keyboard, Mouse
from wirt.vm.memory import Memory
from wirt.vm.registers import entry_registers
from wirt.vm.result import Result, result_of
from wirt.vm.screen import Screen
from wirt.vm.shell import CompletedExec, Shell
from wirt.vm.spec import Spec, make_spec
from wirt.vm.vcpu import Vcpu
from wirt.vm.viewing import parse_display, serve

if TYPE_CHECKING:
    from wirt.display.server import Server

IO_ERROR_ACTIONS: Final = ("report", "pause")
TINY_CMDLINE: Final = "console=ttyS0 quiet"

_SHORTAGE: Final = re.compile(r" \(os error (?:11|12|23|24|28)\)$")
"""How the core's text ends where the host had no more of it: EAGAIN, ENOMEM, ENFILE, EMFILE, ENOSPC."""

_open_machines: weakref.WeakSet[VM] = weakref.WeakSet()


class VM:
    """A virtual machine in this process.

        with wirt.VM("tiny", memory="256M", cpus=2) as vm:
            print(vm.exec("uname -a").stdout)

    `guest` is the built-in guest "tiny"; otherwise `kernel` names a bzImage, an ELF with a PVH note or a
    Multiboot image (or is the bytes of one), with `initrd` and the kernel command line `append` (default:
    console=ttyS0, for Multiboot nothing; the built-in guest has its own, to which `append` is added). With
    neither, `firmware` boots from disks and CD-ROMs: seabios (the default when there is one), ovmf (UEFI,
    whose variables are in the file `nvram`, made when there is none) or the file of an image. `boot` is the
    order of disk and cdrom; with `boot_menu` the user is asked. With no firmware, the machine stands at the
    processor's reset state until registers and memory are set.

    `memory` takes 512M, 2GiB or bytes; `cpus` is 1 to 255; `cpu` is the model they show themselves as: host,
    x86-64-v2, x86-64-v3 or x86-64-v4; `disks` are raw images, as paths or `Disk`; each of `cdroms` is a drive
    with this image in it, or None; `vga` says whether there is a screen (default: with firmware), and
    `display` lets viewers see it: vnc, vnc:PORT, vnc:HOST:PORT or vnc:unix:PATH, with options as `wirt run`
    has them. `virtio` says which interfaces virtio devices have: transitional, modern or legacy; `ports` are
    names of virtio ports, which are then in `ports`. `accel` is auto, kvm or recompiler. `serial` says where
    the console's output goes besides `console`: nowhere, or to a file descriptor. `devices` are attached in
    order: of Python, or by name with options, as `wirt devices` lists them. `debug_port` is a file descriptor
    for what firmware prints to port 0x402; `fw_cfg` adds files to the firmware interface, whose names begin
    with opt/. With `on_io_error` "pause" a disk's request that the host cannot do is no error for the guest:
    the machine stops, and tries again when it is resumed. `log` is told, in sentences and from any thread,
    what else happens (default: Python's logging, as wirt). With `reboot`, a guest's reset starts the machine
    again from its images; otherwise it ends it. `instruments` look at the recompiler.

    Everything is checked and the machine is assembled here; it runs from `start` on, or when a `with` block
    is entered. Leaving the block switches it off. Raises an Error with one sentence and an exit status.
    """

    def __init__(
        self,
        guest: str | None = None,
        *,
        kernel: str | os.PathLike[str] | bytes | None = None,
        initrd: str | os.PathLike[str] | bytes | None = None,
        append: str | None = None,
        firmware: str | os.PathLike[str] | None = None,
        nvram: str | os.PathLike[str] | None = None,
        boot: str | Sequence[str] = (),
        boot_menu: bool = False,
        memory: str | int = "512M",
        cpus: int = 1,
        cpu: str = "host",
        disks: Sequence[str | os.PathLike[str] | Disk] = (),
        cdroms: Sequence[str | os.PathLike[str] | Cdrom | None] = (),
        vga: bool | None = None,
        display: str | None = None,
        virtio: str = "transitional",
        ports: Sequence[str] = (),
        accel: str = "auto",
        serial: int | None = None,
        devices: Sequence[Device | str] = (),
        debug_port: int | None = None,
        fw_cfg: Mapping[str, bytes] | None = None,
        on_io_error: str = "report",
        log: Callable[[str], object] | None = None,
        reboot: bool = True,
        instruments: Instruments = NO_INSTRUMENTS,
    ) -> None:
        self.spec: Spec = make_spec(
            guest=guest,
            kernel=kernel,
            initrd=initrd,
            append=append,
            firmware=firmware,
            nvram=nvram,
            boot=boot,
            boot_menu=boot_menu,
            memory=memory,
            cpus=cpus,
            cpu=cpu,
            disks=disks,
            cdroms=cdroms,
            vga=True if vga is None and display is not None else vga,
            virtio=virtio,
            ports=ports,
            devices=devices,
            fw_cfg=fw_cfg,
        )
        if on_io_error not in IO_ERROR_ACTIONS:
            raise UsageError(
                f"On an I/O error there is no {on_io_error!r}: use {' or '.join(IO_ERROR_ACTIONS)}."
            )
        self._log = _log if log is None else log
        self._pauses_on_io_error = on_io_error == "pause"
        chosen = choose(accel)
        self.accelerator = chosen.name
        """kvm or recompiler."""
        self.accelerator_reason = chosen.reason
        """Why, in a clause."""
        if instruments != NO_INSTRUMENTS and self.accelerator != "recompiler":
            raise UsageError("Only the recompiler has code to show or to map: use it as the accelerator.")
        self._instruments = instruments
        self._reboot = reboot
        self._terminal = _core.Terminal(HISTORY)
        if serial is not None:
            _check_descriptor("serial", serial)
            self._terminal.copy_to(serial)
        if debug_port is not None:
            _check_descriptor("debug_port", debug_port)
        self._virtio_terminal = _core.Terminal(HISTORY)
        screen = _core.Screen()
        self.screen = Screen(screen if self.spec.vga else None, lambda: self._result is not None)
        """What the VGA card shows."""
        self.keyboard = Keyboard(lambda: self._running_machine)
        self.mouse = Mouse(lambda: self._running_machine)
        self.cdroms = tuple(CdromDrive(cdrom.path) for cdrom in self.spec.cdroms)
        """The CD-ROM drives, in order."""
        balloon = _core.Balloon()
        has_balloon = any(named.model == "virtio-balloon" for named in self.spec.named_devices)
        self.balloon = Balloon(
            balloon if has_balloon else None, self.spec.memory, lambda: self._result is not None
        )
        """How much memory the guest is to make do with."""
        self._port_terminals = [(name, _core.Terminal(HISTORY)) for name in self.spec.ports]
        self._ends = FarEnds(
            self._terminal,
            self._virtio_terminal,
            screen,
            balloon,
            [drive.medium for drive in self.cdroms],
            self._port_terminals,
        )
        self.console = Console(self._terminal)
        """The first serial port, ttyS0 in Linux."""
        self.virtio_console = Console(self._virtio_terminal)
        """The virtio console, hvc0 in Linux."""
        self.ports = {name: Console(terminal) for name, terminal in self._port_terminals}
        """The host's ends of the virtio ports, by name: /dev/virtio-ports/NAME in Linux."""
        self.memory = Memory(lambda: self._open_pc.memory)
        self.vcpus: tuple[Vcpu, ...] = tuple(
            Vcpu(lambda: self._open_pc.machine, index) for index in range(cpus)
        )
        self._shell = Shell(self.console)
        # Guards `_pc`, `_result` and `_closing`; the supervisor replaces the machine after a guest's reset.
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._result: Result | None = None
        self._closing = False
        self._watchdog_expired = False
        self._panicked = False
        self._supervisor: threading.Thread | None = None
        # None once the machine is closed, so that its memory goes even if somebody keeps this object.
        self._pc: Pc | None = None
        wanted = None if display is None else parse_display(display)
        firmware_files = self.spec.firmware
        self._variables: int | None = None
        if firmware_files is not None and firmware_files.variables is not None:
            self._variables = open_variables(self.spec.nvram, firmware_files.variables)
        self.display: Server | None = None
        """The VNC server, where there is one."""
        try:
            self._config = self._make_config(debug_port, serial_firmware=wanted is None)
            self._pc = self._assemble()
            if wanted is not None:
                self.display = serve(wanted, self.screen, self.keyboard, self.mouse, self._log)
        except BaseException:
            self.close()
            raise
        _open_machines.add(self)

    def start(self) -> None:
        """Let the guest run. Raises Error unless the machine was just made."""
        self._call(self._open_pc.machine.start)
        self._supervisor = named_thread("supervisor", self._supervise)
        self._supervisor.start()

    def wait(self, timeout: float | None = None) -> Result:
        """Wait for the machine's end and return how it came. Raises WaitTimeout after `timeout` seconds."""
        if self._supervisor is None and self._result is None:
            raise Error("The machine was not started: there is nothing to wait for.")
        if not self._ended.wait(timeout):
            raise WaitTimeout(f"The machine still runs after {timeout:g} s.")
        assert self._result is not None
        return self._result

    def stop(self, timeout: float = 30.0) -> Result:
        """Press the power button, wait `timeout` seconds for the guest to power off, then switch it off.

        A paused machine runs on for that.
        """
        if self._result is None and self._supervisor is not None:
            if self.state == "paused":
                self.resume()
            self._call(self._open_pc.machine.press_power_button)
            with contextlib.suppress(WaitTimeout):
                return self.wait(timeout)
        return self.kill()

    def kill(self) -> Result:
        """Switch the machine off, as when its power fails. Disks keep what was written."""
        with self._lock:
            self._closing = True
            if self._pc is not None:
                self._pc.machine.kill()
        if self._supervisor is None:
            self._finish(Result("killed", 1, "The machine was switched off."))
        return self.wait()

    def pause(self) -> None:
        """Stop all vCPUs and return when they stand still. Raises Error unless the machine runs or is
        paused.
        """
        self._call(self._open_pc.machine.pause)

    def resume(self) -> None:
        """Let a paused machine run on."""
        self._call(self._open_pc.machine.resume)

    @property
    def state(self) -> str:
        """created, running, paused or ended."""
        pc = self._pc
        return "ended" if pc is None else pc.machine.state

    @property
    def result(self) -> Result | None:
        """How the machine ended, or None."""
        return self._result

    def exec(self, command: str, timeout: float | None = 60.0) -> CompletedExec:
        """Run a shell command in the built-in guest, at its console's shell, and wait for it.

        After `timeout` seconds the command is interrupted, as by Ctrl-C, and WaitTimeout raised. Raises
        ClosedError when the machine ends before, and Error when the guest is another one, or the machine does
        not run.
        """
        if self._result is not None:
            raise ClosedError("The machine has ended: no command runs in it any more.")
        if self.spec.guest is None:
            raise Error("Commands run in the built-in guest only: use the console of this one.")
        if self._supervisor is None:
            raise Error("The machine was not started: start it before running a command.")
        if self.state == "paused":
            raise Error("The machine is paused: resume it before running a command.")
        if "\0" in command:
            raise UsageError("The command has a NUL in it, which no command line can hold: leave it out.")
        return self._shell.run(command, timeout)

    def bus_map(self) -> list[tuple[str, int, int, str]]:
        """Which device answers where: (bus, first, last, name), ascending, for the buses `port` and
        `mmio`.
        """
        return self._open_pc.machine.bus_map()

    def listings(self) -> str:
        """Guest code beside host code, of the blocks that `instruments` asked for."""
        return self._open_pc.machine.listings()

    def close(self) -> None:
        """Switch the machine off if it runs, end its threads and free its memory."""
        self.kill()
        if self._supervisor is not None and self._supervisor is not threading.current_thread():
            self._supervisor.join()
        with self._lock:
            pc, self._pc = self._pc, None
        if pc is not None:
            pc.machine.close()
        if self.display is not None:
            self.display.close()
        if self._variables is not None:
            os.close(self._variables)
            self._variables = None
        self._close_terminals()
        _open_machines.discard(self)

    def __enter__(self) -> Self:
        if self._open_pc.machine.state == "created":
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make_config(self, debug_port: int | None, *, serial_firmware: bool) -> PcConfig:
        spec = self.spec
        kernel, initrd, cmdline = spec.kernel, spec.initrd, spec.append
        if spec.guest is not None:
            from wirt.machine import tiny

            try:
                guest = tiny.ensure()
            except tiny.TinyError as error:
                raise Error(str(error)) from error
            kernel, initrd = guest.kernel, guest.initrd if initrd is None else initrd
            cmdline = TINY_CMDLINE if cmdline is None else f"{TINY_CMDLINE} {cmdline}"
        return PcConfig(
            accelerator=self.accelerator,
            memory_size=spec.memory,
            cpus=spec.cpus,
            cpu=spec.cpu,
            instruments=self._instruments,
            uuid=spec.uuid,
            kernel=kernel,
            initrd=initrd,
            cmdline=cmdline,
            firmware=spec.firmware,
            variables=self._variables,
            boot_order=spec.boot,
            boot_menu=spec.boot_menu,
            serial_firmware=serial_firmware,
            disks=spec.disks,
            cdrom_buses=[cdrom.bus for cdrom in spec.cdroms],
            vga=spec.vga,
            virtio=spec.virtio,
            devices=spec.devices,
            named_devices=spec.named_devices,
            pause_on_io_error=self._pauses_on_io_error,
            told=self._told,
            debug_port=debug_port,
            fw_cfg=spec.fw_cfg,
        )

    @property
    def _open_pc(self) -> Pc:
        """The assembled machine. Raises ClosedError when it is closed."""
        pc = self._pc
        if pc is None:
            raise ClosedError("The machine is closed.")
        return pc

    @property
    def _running_machine(self) -> _core.Machine | None:
        """The machine that takes keys."""
        pc = self._pc
        return None if pc is None or self._result is not None else pc.machine

    def _told(self, device: str, event: str) -> None:
        """A device has something to tell, on a thread of the machine's: nothing here may wait for it."""
        if device == "disk":
            self._log(f"A disk's request cannot be done ({event}): the machine is paused.")
            action = "pause"
        else:
            wishes = next(named.options for named in self.spec.named_devices if named.model == device)
            action = dict(wishes)["action"]
        if device == "i6300esb":
            self._watchdog_expired = True
        if device == "pvpanic":
            if event != "panicked":
                return
            self._panicked = True
            if action == "poweroff":
                self._open_pc.machine.kill()
        if action == "pause":
            named_thread("pause", self._pause_quietly).start()

    def _pause_quietly(self) -> None:
        with contextlib.suppress(Error):
            self.pause()

    def _assemble(self) -> Pc:
        try:
            pc = assemble(self._config, self._ends, watchdog_expired=self._watchdog_expired)
            if pc.entry is not None:
                pc.machine.set_registers(0, entry_registers(pc.entry))
        except boot.BootUsageError as error:
            raise UsageError(str(error)) from error
        except (boot.BootError, ValueError) as error:
            raise Error(str(error)) from error
        except _core.CoreError as error:
            raise _cannot_be_made(str(error)) from error
        return pc

    def _supervise(self) -> None:
        """Wait for the machine's end; after a guest's reset make it anew."""
        while True:
            event = self._open_pc.machine.wait()
            assert event is not None
            if event.kind != "reset" or not self._reboot:
                break
            try:
                if not self._restart():
                    break
            except Exception as error:
                # Whatever it was: those who wait are told.
                self._finish(Result("internal-error", 1, f"The machine cannot be started again. {error}"))
                return
        result = result_of(event)
        if result.reason == "killed" and self._panicked and not self._closing:
            result = Result("panicked", 1, "The guest's kernel panicked.")
        self._finish(result)

    def _restart(self) -> bool:
        """Replace the machine by a new one that runs; false when it was switched off meanwhile."""
        self._open_pc.machine.close()
        for device in self.spec.devices:
            try:
                device.reset()
            except Exception as error:
                report = (type(error), error, error.__traceback__, threading.current_thread())
                threading.excepthook(threading.ExceptHookArgs(report))
        pc = self._assemble()
        with self._lock:
            if self._closing:
                pc.machine.close()
                return False
            self._pc = pc
            pc.machine.start()
        return True

    def _finish(self, result: Result) -> None:
        with self._lock:
            if self._result is None:
                self._result = result
        self._close_terminals()
        self._ended.set()

    def _close_terminals(self) -> None:
        for terminal in (self._terminal, self._virtio_terminal, *(end for _, end in self._port_terminals)):
            terminal.close()

    def _call(self, method: Callable[[], None]) -> None:
        try:
            method()
        except _core.CoreError as error:
            kind = ClosedError if self._result is not None else Error
            raise kind(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error


def _cannot_be_made(reason: str) -> Error:
    """The error for what the core says, by whether the host had too little of something."""
    shortage = _SHORTAGE.search(reason)
    if shortage is None:
        return Error(f"The machine cannot be made: {reason}.")
    return CapacityError(
        f"This host has not enough for the machine ({reason[: shortage.start()]}): ask for less memory or "
        "fewer vCPUs, or raise the limits of this process."
    )


def _log(sentence: str) -> None:
    import logging

    logging.getLogger("wirt").warning("%s", sentence)


def _check_descriptor(name: str, fd: int) -> None:
    if not isinstance(fd, int) or isinstance(fd, bool):
        raise UsageError(f"{name} is {fd!r}, not a file descriptor: give the number of an open one.")
    try:
        os.fstat(fd)
    except (OSError, OverflowError):
        raise UsageError(f"{name} is {fd}, which is no open file descriptor: open one for writing.") from None


@atexit.register
def _close_all() -> None:
    """End the threads of machines that nobody closed, before the interpreter goes away under them."""
    for machine in list(_open_machines):
        machine.close()
