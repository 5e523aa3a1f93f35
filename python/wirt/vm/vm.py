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
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Self

from wirt import _core
from wirt.devices.device import Device
from wirt.errors import CapacityError, ClosedError, Error, UsageError, WaitTimeout
from wirt.machine import boot
from wirt.machine.drives import Cdrom, Disk, Floppy
from wirt.machine.nets import Net, open_network
from wirt.machine.pc import NO_INSTRUMENTS, FarEnds, Instruments, Pc, PcConfig, assemble
from wirt.storage.nvram import open_variables
from wirt.threads import named_thread
from wirt.vm import far_end
from wirt.vm.accelerator import choose
from wirt.vm.balloon import Balloon
from wirt.vm.cdrom import CdromDrive
from wirt.vm.console import HISTORY, Console
from wirt.vm.events import Events
from wirt.vm.floppy import FloppyDrive
from wirt.vm.input import Keyboard, Mouse
from wirt.vm.memory import Memory
from wirt.vm.net import NetworkCard
from wirt.vm.registers import entry_registers
from wirt.vm.result import PANICKED, Reason, Result, result_of
from wirt.vm.screen import Screen
from wirt.vm.shell import CompletedExec, Shell
from wirt.vm.spec import Spec, make_spec
from wirt.vm.vcpu import Vcpu
from wirt.vm.viewing import parse_display, serve

if TYPE_CHECKING:
    from wirt.display.server import Server

IO_ERROR_ACTIONS: Final = ("report", "pause")
TINY_CMDLINE: Final = "console=ttyS0 quiet no_timer_check"
"""Without its check of the timer, as Linux does it under other hypervisors: a busy host fails it."""

_SHORTAGE: Final = re.compile(r" \(os error (?:11|12|23|24|28)\)$")
"""How the core's text ends where the host had no more of it: EAGAIN, ENOMEM, ENFILE, EMFILE, ENOSPC."""

_RESTART: Final = 5.0
"""Seconds in which a machine that was reset has started again, for those who want something of it."""

_open_machines: weakref.WeakSet[VM] = weakref.WeakSet()


KillCause = Literal["host-ui", "host-signal", "host-qmp-quit"]
ResetCause = Literal["guest-reset", "host-ui", "host-qmp-system-reset"]
SHUTDOWN_CAUSES: Final[Mapping[Reason, str]] = {
    "shutdown": "guest-shutdown",
    "reset": "guest-reset",
    "exit": "guest-shutdown",
    "triple-fault": "guest-panic",
    "halted": "guest-panic",
    "panicked": "guest-panic",
    "internal-error": "host-error",
}
"""What QMP's ShutdownCause is for how a machine ended by itself."""


class Reset(NamedTuple):
    """A reset that was asked for: by whom, and whether the machine was paused."""

    cause: ResetCause
    paused: bool


class VM:
    """A virtual machine in this process.

        with wirt.VM("tiny", memory="256M", cpus=2) as vm:
            print(vm.exec("uname -a").stdout)

    `guest` is the built-in guest "tiny"; otherwise `kernel` names a bzImage, an ELF with a PVH note or a
    Multiboot image (or is the bytes of one), with `initrd` and the kernel command line `append` (default:
    console=ttyS0, for Multiboot nothing; the built-in guest has its own, to which `append` is added).
    With neither, `firmware` boots from disks, CD-ROMs and floppies: seabios (the default when there is
    one), ovmf (UEFI, whose variables are in the file `nvram`, made when there is none) or the file of an
    image. `boot` is the order of disk, cdrom and floppy; with `boot_menu` the user is asked. With no
    firmware, the machine stands at the processor's reset state until registers and memory are set.

    `memory` takes 512M, 2GiB or bytes; `cpus` is 1 to 255; `cpu` is the model they show themselves as:
    host, x86-64-v2, x86-64-v3 or x86-64-v4; `disks` are raw images, as paths or `Disk`; each of `cdroms`
    is a drive with this image in it, or None (also `Cdrom`), and so is each of `floppies` (also `Floppy`);
    `nets` are network cards, as `Net` or as `wirt run --net` has them (default: one, with nobody else on its
    network); `vga` says whether there is a screen (default: with firmware), and `display` lets viewers see
    it: vnc, vnc:PORT, vnc:HOST:PORT or vnc:unix:PATH, with options as `wirt run` has them. `virtio` says
    which interfaces virtio devices have: transitional, modern or legacy; `ports` are names of virtio ports,
    which are then in `ports`. `accel` is auto, kvm or recompiler. Each of `serials` (1 to 4) and `parallels`
    (none to 2) says where that port goes besides `consoles` and `printers`: to a file descriptor, None for
    nowhere, or file:PATH, and for a serial port pty, unix:PATH or tcp:HOST:PORT. `devices` are attached in
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
        nets: Sequence[str | Net] | None = None,
        vga: bool | None = None,
        display: str | None = None,
        virtio: str = "transitional",
        ports: Sequence[str] = (),
        accel: str = "auto",
        floppies: Sequence[str | os.PathLike[str] | Floppy | None] = (),
        serials: Sequence[int | str | None] = (None,),
        parallels: Sequence[int | str | None] = (),
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
            nets=nets,
            floppies=floppies,
            serials=serials,
            parallels=parallels,
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
        terminals = [_core.Terminal(HISTORY) for _ in self.spec.serials]
        printers = [_core.Terminal(HISTORY) for _ in self.spec.parallels]
        if debug_port is not None:
            _check_descriptor("debug_port", debug_port)
        virtio_terminal = _core.Terminal(HISTORY)
        port_terminals = [(name, _core.Terminal(HISTORY)) for name in self.spec.ports]
        self._terminals = [*terminals, *printers, virtio_terminal, *(end for _, end in port_terminals)]
        self.events = Events()
        """What happens to the machine: `events.subscribe(listener)` tells a program of it."""
        screen = _core.Screen()
        self.screen = Screen(screen if self.spec.vga else None, lambda: self._result is not None)
        """What the VGA card shows."""
        self.keyboard = Keyboard(lambda: self._running_machine)
        self.mouse = Mouse(lambda: self._running_machine)
        balloon = _core.Balloon()
        has_balloon = any(named.model == "virtio-balloon" for named in self.spec.named_devices)
        self.balloon = Balloon(
            balloon if has_balloon else None, self.spec.memory, lambda: self._result is not None
        )
        """How much memory the guest is to make do with."""
        self.cdroms = tuple(
            CdromDrive(cdrom.path, f"cdrom{index}") for index, cdrom in enumerate(self.spec.cdroms)
        )
        """The CD-ROM drives, in order."""
        for drive in self.cdroms:
            drive.watch(self.events)
        self.floppies = tuple(FloppyDrive(floppy) for floppy in self.spec.floppies)
        """The floppy drives, in order."""
        self.consoles = tuple(Console(terminal) for terminal in terminals)
        """The serial ports, in order."""
        self.printers = tuple(Console(terminal) for terminal in printers)
        """What is printed on the parallel ports, in order."""
        self.console = self.consoles[0]
        """The first serial port, ttyS0 in Linux."""
        self.virtio_console = Console(virtio_terminal)
        """The virtio console, hvc0 in Linux."""
        self.ports = {name: Console(terminal) for name, terminal in port_terminals}
        """The host's ends of the virtio ports, by name: /dev/virtio-ports/NAME in Linux."""
        self.memory = Memory(lambda: self._open_pc.memory)
        self.vcpus: tuple[Vcpu, ...] = tuple(
            Vcpu(lambda: self._open_pc.machine, index) for index in range(cpus)
        )
        self._shell = Shell(self.console)
        # Guards `_pc`, `_result`, `_closing`, `_kill_cause` and `_reset`; the supervisor replaces the machine
        # after a reset.
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._result: Result | None = None
        self._closing = False
        self._kill_cause: KillCause = "host-ui"
        self._reset: Reset | None = None
        """The reset that was asked for from outside, until the machine runs again."""
        # Cleared while a machine that was reset is made anew.
        self._steady = threading.Event()
        self._steady.set()
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
        self.nets: tuple[NetworkCard, ...] = ()
        """The network cards, in order."""
        self.display: Server | None = None
        """The VNC server, where there is one."""
        self._far_ends: dict[str, far_end.FarEnd] = {}
        try:
            for net, card in zip(self.spec.nets, self.spec.cards, strict=True):
                network = open_network(net, self.spec.files)
                self.nets += (NetworkCard(network, card.model, card.mac),)
            self._ends = FarEnds(
                serials=terminals,
                virtio_console=virtio_terminal,
                screen=screen,
                balloon=balloon,
                ports=port_terminals,
                cdroms=[drive.medium for drive in self.cdroms],
                networks=[card.network for card in self.nets],
                parallels=printers,
                floppies=[(drive.medium, drive.disk_size) for drive in self.floppies],
            )
            self._connect(terminals, printers)
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
        if self.state == "created":
            for end in self._far_ends.values():
                end.start()
        self._call(lambda machine: machine.start())
        self._supervisor = named_thread("supervisor", self._supervise)
        self.events.publish("RESUME")
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
            self.power_button()
            with contextlib.suppress(WaitTimeout):
                return self.wait(timeout)
        return self.kill()

    def kill(self, cause: KillCause = "host-ui") -> Result:
        """Switch the machine off, as when its power fails. Disks keep what was written.

        `cause` is the reason in the event SHUTDOWN.
        """
        with self._lock:
            if not self._closing:
                self._closing, self._kill_cause = True, cause
            if self._pc is not None:
                self._pc.machine.kill()
        if self._supervisor is None:
            self._finish(Result("killed", 1, "The machine was switched off."))
        return self.wait()

    def reset(self, cause: ResetCause = "host-ui") -> None:
        """Start the machine again from its images, as by its reset button. A paused machine is paused
        afterwards, before its first instruction.

        Does not wait: the event RESET, whose reason is `cause`, tells that it is done. Raises Error unless
        the machine runs or is paused.
        """
        with self._lock:
            if self._result is not None or self._pc is None:
                raise ClosedError("The machine has ended: it cannot be reset.")
            if self._supervisor is None:
                raise Error("The machine was not started: there is nothing to reset.")
            if self._reset is None and self._steady.is_set():
                self._reset = Reset(cause, paused=self._pc.machine.state in ("paused", "created"))
                self._steady.clear()
                self._pc.machine.kill()

    def power_button(self) -> None:
        """Press the power button, by which a guest is asked to power off. Does not wait."""
        self._call(lambda machine: machine.press_power_button())
        self.events.publish("POWERDOWN")

    def nmi(self) -> None:
        """Press the NMI button, which some guests answer with a dump of themselves: each processor gets an
        NMI whose local APIC lets LINT1 be one. Linux lets the first.
        """
        self._call(lambda machine: machine.press_nmi_button())

    def pause(self) -> None:
        """Stop all vCPUs and return when they stand still. Raises Error unless the machine runs or is
        paused.
        """
        if self.state != "paused":
            self._call(lambda machine: machine.pause())
            self.events.publish("STOP")

    def resume(self) -> None:
        """Let a paused machine run on."""
        before = self.state
        self._call(_resume if self._supervisor is not None else lambda machine: machine.resume())
        if before == "paused":
            self.events.publish("RESUME")

    @property
    def state(self) -> str:
        """created, running, paused or ended."""
        with self._lock:
            pc, reset = self._pc, self._reset
            if pc is None or self._result is not None:
                return "ended"
            state = pc.machine.state
        if state == "created" and self._supervisor is not None:
            return "paused"
        if state == "ended" and not self._steady.is_set():
            return "paused" if reset is not None and reset.paused else "running"
        return state

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
        for card in self.nets:
            card.network.close()
        for terminal in self._terminals:
            terminal.close()
        for end in self._far_ends.values():
            end.close()
        _open_machines.discard(self)

    def __enter__(self) -> Self:
        if self._open_pc.machine.state == "created":
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def places(self) -> dict[str, str]:
        """Where the ports are reached that others connect to, by their names: COM1 and so on."""
        return {port: end.place for port, end in self._far_ends.items() if end.place}

    def _connect(self, terminals: Sequence[_core.Terminal], printers: Sequence[_core.Terminal]) -> None:
        """Make the far ends of the serial and parallel ports."""
        spec = self.spec
        drives: list[Disk | Cdrom] = [*spec.disks, *spec.cdroms]
        images = [spec.kernel, spec.initrd, *(drive.path for drive in drives)]
        images += [floppy.path for floppy in spec.floppies if floppy is not None]
        used = [path for path in images if path is not None and not isinstance(path, bytes)]
        for name, wishes, ends in (("COM", spec.serials, terminals), ("LPT", spec.parallels, printers)):
            for index, (wish, terminal) in enumerate(zip(wishes, ends, strict=True)):
                port = f"{name}{index + 1}"
                end = far_end.connect(port, wish, terminal, used)
                if end is not None:
                    self._far_ends[port] = end

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
            nets=spec.cards,
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
            self.events.publish("BLOCK_IO_ERROR", device="", action="stop", reason=event)
            self._log(f"A disk's request cannot be done ({event}): the machine is paused.")
            action = "pause"
        else:
            wishes = next(named.options for named in self.spec.named_devices if named.model == device)
            action = dict(wishes)["action"]
        match device, event:
            case "i6300esb", _:
                self._watchdog_expired = True
                self.events.publish("WATCHDOG", action=action)
            case "pvpanic", "panicked":
                self.events.publish("GUEST_PANICKED", action="run" if action == "none" else action)
                self._panicked = True
                if action == "poweroff":
                    self._open_pc.machine.kill()
            case "pvpanic", "crashloaded":
                # The guest deals with it.
                self.events.publish("GUEST_CRASHLOADED", action="run")
                return
            case "pvpanic", _:
                return
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
        """Wait for the machine's end; after a reset make it anew."""
        while True:
            event = self._open_pc.machine.wait()
            assert event is not None
            reset = self._reset_after(event)
            try:
                if reset is None or not self._restart(reset):
                    break
            except Exception as error:
                # Whatever it was: those who wait are told.
                self._end(Result("internal-error", 1, f"The machine cannot be started again. {error}"))
                return
            self.events.publish("RESET", guest=reset.cause == "guest-reset", reason=reset.cause)
        result = result_of(event)
        if result.reason == "killed" and self._panicked and not self._closing:
            result = PANICKED
        self._end(result)

    def _reset_after(self, event: _core.Event) -> Reset | None:
        """The reset that an event stands for; None: it is the machine's end."""
        with self._lock:
            reset = None
            if event.kind == "reset" and self._reboot:
                reset = Reset("guest-reset", paused=False)
            elif event.kind == "killed":
                reset = self._reset
            if reset is None or self._closing:
                return None
            self._steady.clear()
            return reset

    def _restart(self, reset: Reset) -> bool:
        """Replace the machine by a new one that runs, or is paused at its first instruction; false when it
        was switched off meanwhile.
        """
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
            self._reset, self._panicked = None, False
            if not reset.paused:
                pc.machine.start()
            self._steady.set()
        return True

    def _end(self, result: Result) -> None:
        """The supervisor's last act: tell that the machine has ended."""
        cause = self._kill_cause if result.reason == "killed" else SHUTDOWN_CAUSES[result.reason]
        self.events.publish("SHUTDOWN", guest=cause.startswith("guest-"), reason=cause)
        self._finish(result)

    def _finish(self, result: Result) -> None:
        with self._lock:
            if self._result is None:
                self._result = result
        for terminal in self._terminals:
            terminal.close()
        self._ended.set()
        self._steady.set()

    def _call(self, method: Callable[[_core.Machine], None]) -> None:
        """Have the machine do something; one that was reset, when it is there again."""
        if threading.current_thread() is not self._supervisor:
            self._steady.wait(_RESTART)
        try:
            method(self._open_pc.machine)
        except _core.CoreError as error:
            kind = ClosedError if self._result is not None else Error
            raise kind(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error


def _resume(machine: _core.Machine) -> None:
    """Let a machine run that is paused, or was reset while it was."""
    if machine.state == "created":
        machine.start()
    else:
        machine.resume()


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
