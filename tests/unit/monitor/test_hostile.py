"""Whatever clients send: each command is answered, nobody else notices, and the machine stays itself."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitored_vm import MonitoredVM
from wirt.vm import VM
from wirt.vm.monitor.client import Client
from wirt.vm.monitor.commands import TABLE
from wirt.vm.monitor.messages import QmpError, Request
from wirt.vm.monitor.monitor import Monitor

WORDS = (
    *("filename", "format", "png", "ppm", "keys", "type", "data", "qcode", "number", "hold-time", "events"),
    *("key", "btn", "rel", "abs", "axis", "x", "y", "value", "button", "left", "down", "id", "device"),
    *("cdrom0", "force", "raw", "head", "enable", "read-only-mode", "retain", "ctrl"),
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
LEAVES = SCALARS | st.sampled_from(WORDS) | st.text(max_size=8)
BRANCHES = st.dictionaries(st.sampled_from(WORDS), LEAVES, max_size=4) | st.lists(LEAVES, max_size=3)
UNIONS = st.fixed_dictionaries(
    {"type": st.sampled_from(WORDS), "data": LEAVES | BRANCHES | st.fixed_dictionaries({"key": BRANCHES})}
)
VALUES = LEAVES | BRANCHES | st.lists(UNIONS | BRANCHES, max_size=3)


def arguments_of(command: str) -> st.SearchStrategy[dict[str, object]]:
    """Anything for each parameter of a command, and now and then for another."""
    known = {parameter.name: VALUES for parameter in TABLE[command].parameters}
    return st.fixed_dictionaries({}, optional=known | {"other": st.just(1)})


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(TABLE)), st.data())
def test_any_arguments_give_a_result_or_an_error(tmp_path: Path, command: str, data: st.DataObject) -> None:
    arguments = data.draw(arguments_of(command))
    monitor = Monitor(cast(VM, MonitoredVM()), "web", lambda seconds, what: None)
    with pytest.MonkeyPatch.context() as patch:
        # Where a file's name may lead.
        patch.chdir(tmp_path)
        if isinstance(arguments.get("filename"), str):
            arguments["filename"] = str(arguments["filename"]).replace("/", "_")
        try:
            result = monitor.execute(Request(command, arguments))
        except QmpError as error:
            assert str(error)[-1:] == "."
        else:
            assert json.loads(json.dumps(result)) is not None


def test_streams_of_nonsense_are_in_nobodys_way(path: str) -> None:
    random_source = random.Random(7)
    commands = [json.dumps({"execute": name, "id": 1}).encode() for name in TABLE if name != "quit"]
    pieces = [b"{", b"}", b"[", b"]", b'"', b"\\", b"\n", b"\xff", b"\0", b"x" * 5000, *commands]
    with Client(path) as other:
        for _ in range(30):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.settimeout(0.01)
                for _ in range(random_source.randrange(30)):
                    sent = b"".join(random_source.choices(pieces, k=20))
                    if random_source.random() < 0.3:
                        sent = b'\xff{"execute": "qmp_capabilities"}' + sent
                    try:
                        client.sendall(sent)
                    except TimeoutError:
                        # It has not read its answers, and is not listened to.
                        break
            assert other.execute("query-name") == {"name": "web"}
