"""What tests of every kind share: the accelerators that work on this host."""

from __future__ import annotations

import pytest

from wirt import _core


@pytest.fixture(params=["kvm", "recompiler"])
def accelerator(request: pytest.FixtureRequest) -> str:
    """The name of an accelerator that makes machines here; the test is skipped, with the reason, for
    others.
    """
    name: str = request.param
    memory = _core.GuestMemory([(0, 0x1000, 0, False)])
    try:
        _core.Machine(memory, 1, name).close()
    except _core.CoreError as error:
        pytest.skip(f"{name}: {error}")
    return name
