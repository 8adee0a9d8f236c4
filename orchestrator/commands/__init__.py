"""The commands, one per file. Nothing else prints."""
