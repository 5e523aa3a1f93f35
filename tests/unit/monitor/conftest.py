"""A monitor's server over a machine without a guest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from monitored_vm import MonitoredVM
from wirt.vm import VM
from wirt.vm.monitor.server import MonitorServer


@pytest.fixture
def vm() -> MonitoredVM:
    return MonitoredVM()


@pytest.fixture
def path(vm: MonitoredVM, tmp_path: Path) -> Iterator[str]:
    """Where the monitor of `vm` listens."""
    path = str(tmp_path / "monitor.sock")
    with MonitorServer(cast(VM, vm), [path], "web"):
        yield path
