"""The options of sbatch that a site file may add, and those that are nagbench's own."""

from __future__ import annotations

import re

KEY = "the key of that name"  # in OWN
# Option -> the key of the site file that sets it; "": nagbench sets it itself.
OWN = {
    **dict.fromkeys(("account", "qos", "constraint", "gres", "partition", "exclude", "reservation"), KEY),
    **dict.fromkeys(("nice", "comment", "mail-user", "licenses", "clusters"), KEY),
    **dict.fromkeys(("time", "mem", "mem-per-cpu", "mem-per-gpu", "cpus-per-task", "nodes", "ntasks"), "stages"),
    **dict.fromkeys(("gpus", "gpus-per-node", "gpus-per-task", "ntasks-per-node"), "stages and gpus"),
    "signal": "signal_s",
    **dict.fromkeys(
        ("array", "job-name", "dependency", "kill-on-invalid-dep", "requeue", "no-requeue", "parsable"), ""
    ),
    **dict.fromkeys(("output", "error", "input", "open-mode", "chdir", "wrap", "export", "wait", "parsable"), ""),
    **dict.fromkeys(("test-only", "begin", "hold", "uid", "gid", "quiet", "help", "version"), ""),
}
OPTION = re.compile(r"--([a-z][a-z0-9-]+)(?:=(.+))?")


def extra_options(words: tuple[str, ...]) -> dict[str, str | bool]:
    """`--name=value` and `--name` as options. Raises ValueError for what is neither, or is nagbench's own."""
    options: dict[str, str | bool] = {}
    for word in words:
        match = OPTION.fullmatch(word)
        if match is None:
            raise ValueError(f"extra: {word!r} is not of the form --name or --name=value")
        name, value = match.groups()
        if name in OWN:
            key = OWN[name].replace(KEY, name.replace("-", "_"))
            raise ValueError(f"extra: nagbench sets --{name} itself{f'; set {key} instead' if key else ''}")
        options[name] = True if value is None else value
    return options
