"""Numbers and speed on one GPU, measured in minutes: `python -m benchmarks.gpu --minutes 9 --out FOLDER`."""
