"""Commands by which a machine starts, stops and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wirt.vm.monitor.monitor import Monitor


def query_status(monitor: Monitor) -> dict[str, object]:
    """QMP's RunState, as far as machines of Wirt have it."""
    state = monitor.vm.state
    match state:
        case "created":
            status = "prelaunch"
        case "running":
            status = "running"
        case "paused":
            status = monitor.paused_by
        case _:
            result = monitor.vm.result
            status = "shutdown" if result is None or result.reason != "internal-error" else "internal-error"
    return {"running": state == "running", "status": status}


def stop(monitor: Monitor) -> None:
    """Pause the machine."""
    monitor.vm.pause()


def cont(monitor: Monitor) -> None:
    """Let it run on, or start it."""
    if monitor.vm.state == "created":
        monitor.vm.start()
    else:
        monitor.vm.resume()


def system_powerdown(monitor: Monitor) -> None:
    """Press the power button."""
    monitor.vm.power_button()


def system_reset(monitor: Monitor) -> None:
    """Press the reset button."""
    monitor.vm.reset("host-qmp-system-reset")


def inject_nmi(monitor: Monitor) -> None:
    """Press the NMI button."""
    monitor.vm.nmi()


def leave(monitor: Monitor) -> None:
    """Switch the machine off (quit)."""
    monitor.vm.kill("host-qmp-quit")
