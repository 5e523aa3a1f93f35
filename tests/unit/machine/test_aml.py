from __future__ import annotations

import pytest

from wirt.machine import aml


@pytest.mark.parametrize(
    ("content", "encoded"),
    [
        (0, "01"),
        (62, "3f"),
        (63, "4104"),
        (4093, "4fff"),
        (4094, "810001"),
        (0xF_FFFC, "8fffff"),
        (0xF_FFFD, "c1000001"),
    ],
)
def test_pkg_length_counts_its_own_bytes(content: int, encoded: str) -> None:
    assert aml.pkg_length(content).hex() == encoded


def test_pkg_length_has_an_end() -> None:
    with pytest.raises(ValueError, match="too long"):
        aml.pkg_length(1 << 28)


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("\\", b"\\\0"),
        ("_CRS", b"_CRS"),
        ("PM", b"PM__"),
        ("\\_SB.PCI0", b"\\\x2e_SB_PCI0"),
        ("^^ISA.PRQ0", b"^^\x2eISA_PRQ0"),
        ("\\_SB.PCI0.ISA.PRQ1", b"\\\x2f\x04_SB_PCI0ISA_PRQ1"),
    ],
)
def test_name_string(path: str, encoded: bytes) -> None:
    assert aml.name_string(path) == encoded


@pytest.mark.parametrize("path", ["TOOLONG", "1ABC", "abc", "A-B", "\\_SB..PCI0"])
def test_bad_names_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="AML name"):
        aml.name_string(path)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (256, "0b0001"),
        (65536, "0c00000100"),
        (1 << 32, "0e0000000001000000"),
    ],
)
def test_integer_takes_the_shortest_form(value: int, encoded: str) -> None:
    assert aml.integer(value).hex() == encoded


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_integer_outside_64_bits_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="64-bit"):
        aml.integer(value)


def test_eisa_id_is_the_value_asl_compilers_emit() -> None:
    assert aml.eisa_id("PNP0A03").hex() == "0c41d00a03"
    with pytest.raises(ValueError, match="EISA"):
        aml.eisa_id("pnp0A03")
