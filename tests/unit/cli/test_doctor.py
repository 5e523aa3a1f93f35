"""`wirt doctor`: its report and exit status."""

from __future__ import annotations

import json

import pytest

from wirt.cli import doctor
from wirt.cli.checks import Check, Status
from wirt.cli.entry import main

GOOD = Check("memory", "ok", "plenty")
BAD = Check("tun", "missing", "no /dev/net/tun", "As root, 'modprobe tun'.")


def accelerator(status: Status) -> Check:
    chosen = None if status == "missing" else "recompiler"
    return Check("accelerator", status, "recompiler", figures={"chosen": chosen})


def test_a_table_names_what_to_do() -> None:
    assert doctor.table([GOOD, BAD], width=None, coloured=False).splitlines() == [
        "memory       ok       plenty",
        "tun          missing  no /dev/net/tun",
        "                      -> As root, 'modprobe tun'.",
    ]


def test_a_table_fits_the_terminal() -> None:
    check = Check("KVM", "limited", "word " * 30, "advice " * 30)
    lines = doctor.table([check], width=60, coloured=False).splitlines()
    assert max(map(len, lines)) <= 60
    assert " ".join(lines).split().count("advice") == 30
    assert all(line.startswith(" " * 22) for line in lines[1:])


def test_colours_take_no_room() -> None:
    plain = doctor.table([BAD], width=None, coloured=False)
    coloured = doctor.table([BAD], width=None, coloured=True)
    assert coloured.replace("\x1b[31m", "").replace("\x1b[0m", "") == plain != coloured


@pytest.mark.parametrize(("status", "exit_status"), [("ok", 0), ("limited", 0), ("missing", 1)])
def test_the_exit_status_tells_whether_guests_can_run(
    status: Status,
    exit_status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(doctor, "check_host", lambda: [GOOD, BAD, accelerator(status)])
    assert main(["doctor"]) == exit_status
    assert "\x1b" not in capsys.readouterr().out
    assert main(["doctor", "--format", "json"]) == exit_status
    report = json.loads(capsys.readouterr().out)
    assert report["usable"] is (exit_status == 0)
    assert report["accelerator"] == (None if exit_status else "recompiler")
    assert report["checks"][1] == {
        "name": "tun",
        "status": "missing",
        "finding": "no /dev/net/tun",
        "advice": "As root, 'modprobe tun'.",
        "figures": {},
    }
