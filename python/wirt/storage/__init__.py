"""What stands behind a disk: image formats."""
