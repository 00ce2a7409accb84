"""The devices: one folder each, the same file names in each. Loaded through ``lowerings.table`` only."""
