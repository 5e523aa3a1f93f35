"""The PC: its memory map, its tables (ACPI, SMBIOS) and how a kernel is started in it directly."""
