"""The machines of this host: those that run now, by their names."""
