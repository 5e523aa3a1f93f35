"""Device models in Python, and the class they are made of."""

from wirt.devices.device import Action, Device

__all__ = ["Action", "Device"]
