"""A machine's network card, as a program sees its link."""

from __future__ import annotations

from wirt import _core


class NetworkCard:
    """A card's cable. What is done to it stays when the guest resets the machine."""

    def __init__(self, network: _core.Network, model: str, mac: bytes) -> None:
        self.network = network
        self.model = model
        """virtio or e1000."""
        self.mac = mac.hex(":")
        """The address, for instance 52:54:00:12:34:56."""

    @property
    def plugged(self) -> bool:
        """Whether the cable is plugged in; it is at first."""
        return self.network.plugged

    @property
    def link_up(self) -> bool:
        """Whether it is plugged in and the network is there: a peer that closes a connection is gone for
        good.
        """
        return self.network.up

    def plug(self) -> None:
        """Plug the cable in. Frames that came in between are lost."""
        self.network.set_plugged(True)

    def unplug(self) -> None:
        """Pull the cable out: the guest sees the link go down."""
        self.network.set_plugged(False)
