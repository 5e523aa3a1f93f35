"""The marks of tests in which the built-in guest's Linux boots."""

from __future__ import annotations

import pytest

LINUX_GUEST = [pytest.mark.slow, pytest.mark.network]
