from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirt.errors import UsageError
from wirt.vm.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 << 20),
        ("2GiB", 2 << 30),
        ("2 gb", 2 << 30),
        ("1KiB", 1024),
        ("3T", 3 << 40),
        ("4096", 4096),
        ("0B", 0),
        (65536, 65536),
    ],
)
def test_sizes_people_write(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "-1M", "1.5G", "1X", "1MM", "0x10", "1e9", "9" * 30, -1, True, None]
)
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(UsageError, match="size"):
        parse_size(text)  # type: ignore[arg-type]


@given(st.integers(min_value=0, max_value=1 << 50))
def test_a_formatted_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size).replace("bytes", "B")) == size
