"""How counters are shown: a line for each kind, and what follows from them."""

from __future__ import annotations

from wirt.cli import counters


def test_counters_of_one_kind_share_a_line() -> None:
    statistics = {"blocks": 3, "miss.read": 5, "interrupts": 1, "miss.write": 7}
    assert counters.text(1, statistics) == "vcpu1: blocks 3, interrupts 1\nvcpu1: miss: read 5, write 7"


def test_translation_is_told_by_block() -> None:
    statistics = {"translated": 4, "translation-ns": 9000, "guest-bytes": 40, "host-bytes": 100}
    assert counters.text(0, statistics).splitlines()[1] == (
        "vcpu0: translation: 2.2 us a block, code growth 2.5x"
    )


def test_an_accelerator_that_translates_nothing_has_no_such_line() -> None:
    assert counters.text(0, {"translated": 0, "pio_in": 2}) == "vcpu0: translated 0, pio_in 2"
