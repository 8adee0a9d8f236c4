"""The commands, one a file. Only here is anything printed."""
