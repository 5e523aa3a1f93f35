"""The monitor: a machine's QMP server, and the client by which Wirt's own commands use it."""
