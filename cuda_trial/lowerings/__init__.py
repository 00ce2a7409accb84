"""The devices: one folder each, the same file names in each. ``table.py`` maps a device to its folder."""
