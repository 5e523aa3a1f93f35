"""The builder of Debian's disk says what it lacks before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.debian_disk import BuildError, Tool, build, missing_packages


def test_missing_packages_are_named_once_and_in_order() -> None:
    tools = [Tool("/none/file", "b"), Tool("sh", "dash"), Tool("no-such-program", "a"), Tool("/none", "b")]
    assert missing_packages(tools) == ["a", "b"]


def test_a_kernel_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"no cloud kernel for i386: the others are .*i386 generic"):
        build(tmp_path / "disk.img", "i386", "cloud", print)
    assert list(tmp_path.iterdir()) == []
