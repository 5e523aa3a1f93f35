"""What `display` asks for, and who gets to see."""

import socket
from pathlib import Path

import pytest

import wirt
from wirt.vm.viewing import Display, parse_display


@pytest.mark.parametrize(
    ("text", "display"),
    [
        ("vnc", Display(None)),
        ("vnc:5901", Display(":5901")),
        ("vnc:0.0.0.0:1", Display("0.0.0.0:1")),
        ("vnc:[::1]:5", Display("[::1]:5")),
        ("vnc:unix:/run/a,b", Display("unix:/run/a,b")),
        ("vnc:unix:/a,layout=de", Display("unix:/a", layout="de")),
        ("vnc,password=x=y", Display(None, password="x=y")),
    ],
)
def test_displays(text: str, display: Display) -> None:
    assert parse_display(text) == display


@pytest.mark.parametrize("text", ["", "sdl", "vnc:", "VNC", "vnc,colour=red"])
def test_what_is_no_display(text: str) -> None:
    with pytest.raises(wirt.UsageError, match="is no display"):
        parse_display(text)


def test_secrets_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\nmore\n")
    (tmp_path / "token").write_text("long")
    given = parse_display(f"vnc,password-file={tmp_path}/password,token-file={tmp_path}/token")
    assert (given.password, given.token) == ("secret", "long")
    with pytest.raises(wirt.NotFoundError, match="cannot be read"):
        parse_display(f"vnc,password-file={tmp_path}/none")
    with pytest.raises(wirt.UsageError, match="leave one of the two out"):
        parse_display(f"vnc,password=a,password-file={tmp_path}/password")


def test_a_machine_greets_its_viewers_until_it_is_closed() -> None:
    with wirt.VM(display="vnc:0", accel="recompiler") as vm:
        assert vm.display is not None
        host, _, port = vm.display.address.rpartition(":")
        assert host == "127.0.0.1"
        with socket.create_connection((host, int(port)), timeout=20) as viewer:
            assert viewer.recv(12) == b"RFB 003.008\n"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=20)


def test_the_next_free_port_is_taken() -> None:
    with wirt.VM(display="vnc", accel="recompiler") as one, wirt.VM(display="vnc", accel="recompiler") as two:
        assert one.display is not None and two.display is not None
        assert one.display.address != two.display.address


def test_a_place_that_is_taken_leaves_no_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(wirt.Error, match=f"cannot be let in at :{port}"):
            wirt.VM(display=f"vnc:{port}", accel="recompiler")
