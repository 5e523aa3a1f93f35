"""The marks of tests in which the built-in guest's Linux boots."""

from __future__ import annotations

import pytest

from wirt import _core

LINUX_GUEST = [
    pytest.mark.slow,
    pytest.mark.network,
    pytest.mark.skipif(
        _core.probe().verdict != "hardware",
        reason="without hardware KVM the recompiler runs the guest, and it does not boot Linux yet",
    ),
]
