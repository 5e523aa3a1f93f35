"""The monitor, judged by QEMU's own client library."""

from __future__ import annotations

import asyncio

import pytest
from qemu.qmp import EventListener, ExecuteError, QMPClient

from monitored_vm import MonitoredVM


def test_commands_events_and_errors(vm: MonitoredVM, path: str) -> None:
    async def talk() -> None:
        client = QMPClient("test")
        listener = EventListener()
        client.register_listener(listener)
        await client.connect(path)
        assert await client.execute("query-status") == {"running": True, "status": "running"}
        assert await client.execute("stop") == {}
        assert (await asyncio.wait_for(listener.get(), 10))["event"] == "STOP"
        with pytest.raises(ExecuteError, match="There is no command 'nothing'") as error:
            await client.execute("nothing")
        assert error.value.error_class == "CommandNotFound"
        answers = await asyncio.gather(*(client.execute("query-name") for _ in range(20)))
        assert answers == [{"name": "web"}] * 20
        await client.execute("quit")
        assert (await asyncio.wait_for(listener.get(), 10))["data"]["reason"] == "host-qmp-quit"
        await client.disconnect()

    asyncio.run(talk())
    assert vm.state == "ended"
