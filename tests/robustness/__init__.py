"""Random damage to everything that nagbench reads: sweep and site files, stores, environments, output channels.

`cases` plays an input and judges what came out, `server` runs commands in forks of one process, and each `test_` file
has a kind of input. An input is a function of the seed and its number, so any one can be played again by itself.
"""
