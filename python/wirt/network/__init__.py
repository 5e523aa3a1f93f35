"""What stands behind network cards on this host."""
