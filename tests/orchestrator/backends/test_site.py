"""The site file: every key, what is refused and with which message, and what reaches a shell."""

from __future__ import annotations

import grp
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.site import KINDS, LocalSettings, find_site, folders, read_site
from orchestrator.backends.slurm.queueing import options
from orchestrator.backends.slurm.settings import STAGES, Resources, SlurmSettings
from orchestrator.errors import BadInput, SpecError
from orchestrator.spec import examples

SITES = sorted((Path(__file__).parents[3] / "sites").glob("*.yaml"))

EVERY_KEY = """\
kind: slurm
partition: gpu,gpu-long
cpu_partition: cpu
clusters: alpha,beta
account: my.group+x@site
qos: high
constraint: "[a100*2&nvlink]|h100"
gres: gpu:a100:{gpus}
gpus: --gpus-per-task
memory: per_cpu
exclude: n[1-4],n7
reservation: maintenance
nice: 100
comment: for the site
mail_user: me@example.org
licenses: matlab:2,other@server
extra: [--mail-type=FAIL, --exclusive]
setup: [module load cuda, 'export A="$HOME/x y"']
container: [apptainer, exec, --nv, /images/my torch.sif]
python: /envs/it's/bin/python
env_file: ENV_FILE
stages:
  train: {minutes: 2880, memory_gb: 100, cpus: 16, gpus: 4, nodes: 2}
  sample: {minutes: 50}
  measure: {gpus: 0}
  reference: {cpus: 2}
  extract: {memory_gb: 3.5}
  score: {minutes: 5}
  reconcile: {minutes: 10}
target_minutes: 45.5
throttle: 16
max_submit: 500
scratch: $SLURM_TMPDIR/x
reconcile: manual
poll_s: 5
folder: ~/shared/nagbench
memory_gb_at_most: 128
generations_at_most: 7
signal_s: 120
stagger_s: 0
lost_after_s: 60
visible_after_s: 5
mps: true
group: GROUP
networks: {big: {parameters_above: 5e8, train: {gpus: 8}}}
"""


@pytest.fixture
def site(tmp_path: Path) -> Callable[[str], Path]:
    def written(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return written


@pytest.fixture
def slurm(site: Callable[[str], Path]) -> Callable[[str], SlurmSettings]:
    def read(text: str) -> SlurmSettings:
        found = read_site(str(site(f"kind: slurm\n{text}"))).settings
        assert isinstance(found, SlurmSettings)
        return found

    return read


def test_every_key(site: Callable[[str], Path], tmp_path: Path) -> None:
    secrets = tmp_path / "env"
    secrets.write_text("TOKEN=x\n")
    secrets.chmod(0o600)
    own = grp.getgrgid(os.getgid()).gr_name
    found = read_site(str(site(EVERY_KEY.replace("ENV_FILE", str(secrets)).replace("GROUP", own))))
    assert (found.name, found.kind) == ("mine", "slurm")
    slurm = found.settings
    written = set(slurm.__dataclass_fields__)
    assert written == {line.partition(":")[0] for line in EVERY_KEY.splitlines() if line[0] != " "} - {"kind"}
    assert slurm != SlurmSettings()
    assert slurm.resources("train") == Resources(minutes=2880, memory_gb=100, cpus=16, gpus=4, nodes=2)
    assert slurm.resources("sample") == Resources(minutes=50, memory_gb=16, cpus=4, gpus=1)
    assert slurm.resources("measure").gpus == 0
    assert (slurm.target_minutes, slurm.throttle, slurm.scratch) == (45.5, 16, "$SLURM_TMPDIR/x")


def test_a_site_may_say_next_to_nothing(slurm: Callable[[str], SlurmSettings]) -> None:
    assert slurm("") == SlurmSettings()
    assert slurm("partition: null\nstages: {train: null}\n") == SlurmSettings()
    assert {stage: SlurmSettings().resources(stage) for stage in STAGES} == STAGES


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_the_examples_are_right(path: Path) -> None:
    assert read_site(str(path)).kind in KINDS
    assert read_site(path.stem).path == str(path)  # by name too


def test_the_commented_keys_of_the_example_are_right(site: Callable[[str], Path], tmp_path: Path) -> None:
    """With its commented keys put in, the example has every key."""
    lines = []
    for line in (SITES[0].parent / "slurm.yaml").read_text().splitlines():
        bare = line.strip().removeprefix("# ")
        key = bare.partition(":")[0]
        known = key in SlurmSettings.__dataclass_fields__ or key in STAGES or bare == "- module load cuda"
        lines.append(line.replace("# ", "", 1) if line.strip().startswith("#") and known else line)
    secrets = tmp_path / "env"
    secrets.touch(0o600)
    text = "\n".join(lines).replace("~/.config/nagbench/env", str(secrets)).replace("  -", "    -")
    found = read_site(str(site(text.replace("#     -", "    -")))).settings
    assert found.account == "my_group"
    assert found.setup == ("module load cuda",)
    fields = set(SlurmSettings.__dataclass_fields__)
    assert {key for key in fields if f"\n{key}:" in f"\n{text}"} == fields


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partiton: gpu", r"mine\.yaml:2: unknown key 'partiton'\. Did you mean 'partition'\?"),
        ("stages:\n  sampel: {minutes: 3}", r"mine\.yaml:3: stages: unknown key 'sampel'\. Did you mean 'sample'\?"),
        (
            "stages: {train: {time: 3}}",
            r"mine\.yaml:2: stages\.train: unknown key 'time'\. Known: cpus, gpus, memory_gb, minutes, nodes",
        ),
        ("partition: gpu; rm -rf /", r":2: partition: expected a name of letters, .*, got 'gpu; rm -rf /'"),
        ("partition: $(id)", r":2: partition: expected a name"),
        ("partition: -p", r":2: partition: expected a name"),
        ("partition: 'a b'", r":2: partition: expected a name"),
        ("account: a,b", r":2: account: expected a name"),
        ("account: 'a`id`'", r":2: account: expected a name"),
        ("qos: 'x\"y'", r":2: qos: expected a name"),
        ("constraint: a100 h100", r":2: constraint: expected features such as a100"),
        ("constraint: 'a100;id'", r":2: constraint: expected features"),
        ("gres: gpu:1", r":2: gres: expected gpu:\{gpus\}, gpu:TYPE:\{gpus\} or gpus_per_node, got 'gpu:1'"),
        ("gres: 'gpu:{gpus} --x'", r":2: gres: expected gpu"),
        ("setup: module load cuda", r":2: setup: .*got 'module load cuda'"),
        ("setup:\n- |\n  a\n  b", r":3: setup\[0\]: it has a line break or an invisible character"),
        ('partition: "a\\nb"', r":2: partition: it has a line break or an invisible"),
        ('container: ["a\\0b"]', r":2: container\[0\]: it has a line break or an invisible"),
        ('setup: ["\\u2028"]', r":2: setup\[0\]: it has a line break or an invisible"),
        ("setup: [export WANDB_API_KEY=abc]", r":2: setup\[0\]: WANDB_API_KEY looks like a secret.*env_file"),
        ("setup: ['export AWS_SECRET_ACCESS_KEY=\"abc\"']", r"AWS_SECRET_ACCESS_KEY looks like a secret"),
        ("container: [apptainer, exec, --env, KEY=x]", r":2: container\[3\]: KEY looks like a secret"),
        ("container: [docker, run, '--env=HF_TOKEN=x']", r":2: container\[2\]: HF_TOKEN looks like a secret"),
        ("setup: ['A=1 DB_PASSWORD=x']", r"DB_PASSWORD looks like a secret"),
        ("setup: ['TOKENIZERS_PARALLELISM=false API_KEY=x']", r"API_KEY looks like a secret"),
        ("setup: ['export X=postgres://u:p@h/d']", r":2: setup\[0\]: the password of an address looks like a secret"),
        ("python: env https_proxy=http://u:p@h python", r":2: python: the password of an address"),
        ("container: [1]", r":2: container"),
        ("folder: results/store", r":2: folder: expected an absolute path, or one that starts with ~"),
        ("scratch: scratch", r":2: scratch: expected an absolute path, or one that starts with a variable"),
        ("throttle: 0", r":2: throttle: expected a whole number from 1 to 10000, got 0"),
        ("throttle: 1.5", r":2: throttle: expected a whole number"),
        ("max_submit: many", r":2: max_submit: expected a whole number.*got 'many'"),
        ("target_minutes: 0", r":2: target_minutes: expected a number above 0 and at most 720, got 0"),
        ("poll_s: 61", r":2: poll_s: expected a number from 0.1 to 60, got 61"),
        ("reconcile: auto", r":2: reconcile: unknown value 'auto'\. Known: job, manual"),
        ("stages: {sample: {minutes: '90'}}", r":2: stages\.sample\.minutes: expected a number.*without quotes"),
        ("stages: {sample: {minutes: 1:30}}", r"With ':' it is text; write one number"),
        ("stages: {train: {gpus: -1}}", r":2: stages\.train\.gpus: expected a whole number.*, got -1"),
        ("stages: {train: 90}", r":2: stages\.train"),
        ("target_minutes: 90", r"target_minutes is 90, but stages\.sample\.minutes.*is 90"),
        ("memory_gb_at_most: 20", r"memory_gb_at_most is 20, but stages.train has 32"),
        ("partition: gpu\npartition: cpu", r":3: repeated key 'partition'"),
        ("env_file: /nonexistent/env", r":2: env_file: /nonexistent/env: no such file or directory"),
        ("env_file: /tmp", r":2: env_file: /tmp is not a regular file"),
    ],
)
def test_what_is_refused(slurm: Callable[[str], SlurmSettings], text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        slurm(f"{text}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partition: gpu", r"mine\.yaml:1: 'kind' is missing\. Known: local, ray, slurm"),
        ("kind: slrum", r"mine\.yaml:1: kind: unknown kind 'slrum'\. Did you mean 'slurm'\?"),
        ("kind: [slurm]", r"mine\.yaml:1: kind: expected text, got a list"),
        ("- slurm", r"mine\.yaml:1: expected a mapping such as \{kind: slurm"),
        ("kind: local\npartition: gpu", r"mine\.yaml:2: unknown key 'partition'\. Known: per_gpu, processes, workers"),
        ("kind: local\nworkers: 0", r"mine\.yaml:2: workers: expected a whole number.*, got 0"),
        ("kind: slurm\n\tpartition: x", r"mine\.yaml:2: a tab"),
    ],
)
def test_what_is_no_site(site: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_site(str(site(f"{text}\n")))


def test_this_machine_is_a_site_too(site: Callable[[str], Path]) -> None:
    assert read_site(str(site("kind: local\nworkers: 3\n"))).settings == LocalSettings(workers=3)


@pytest.mark.parametrize(
    ("mode", "fine"), [(0o600, True), (0o400, True), (0o640, False), (0o604, False), (0o660, False)]
)
def test_secrets_are_for_the_user_alone(
    slurm: Callable[[str], SlurmSettings], tmp_path: Path, mode: int, fine: bool
) -> None:
    secrets = tmp_path / "env"
    secrets.write_text("TOKEN=hush\n")
    secrets.chmod(mode)
    if fine:
        found = slurm(f"env_file: {secrets}\n")
        assert "hush" not in repr(found)  # it is not read here at all
        return
    with pytest.raises(SpecError, match=rf"can be read by others \(mode {mode:04o}\); run: chmod 600"):
        slurm(f"env_file: {secrets}\n")


def test_secrets_of_somebody_else_are_refused(slurm: Callable[[str], SlurmSettings], tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    secrets = tmp_path / "env"
    secrets.touch(0o600)
    os.chown(secrets, 12345, -1)
    with pytest.raises(SpecError, match="is not yours"):
        slurm(f"env_file: {secrets}\n")


def test_words_reach_a_shell_as_they_are(slurm: Callable[[str], SlurmSettings], tmp_path: Path) -> None:
    """Run what a batch script would hold: nothing in a path or a word is acted on."""
    folder = tmp_path / "it's a $HOME `id` folder; exit 9"
    folder.mkdir()
    (folder / "env").write_text("TOKEN=hush\nOTHER='a b'\n")
    (folder / "env").chmod(0o600)
    tool = folder / "tool"
    tool.write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@" "$TOKEN" "$OTHER"\n')
    tool.chmod(0o755)
    words = [str(tool), "$(id)", "a b", "'", "&& exit 9"]
    quoted = ", ".join("'" + word.replace("'", "''") + "'" for word in words)
    env_file = "'" + str(folder / "env").replace("'", "''") + "'"
    found = slurm(f"container: [{quoted}]\npython: py thon\nenv_file: {env_file}\nsetup: ['OTHER=\"$OTHER!\"']\n")
    script = "\n".join([*found.script, found.command])
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, env={"PATH": "/bin:/usr/bin"}
    )
    assert done.stdout.splitlines() == [*words, "py thon", "hush", "a b!"]
    assert "hush" not in script


def test_a_node_that_cannot_read_the_secrets_stops(slurm: Callable[[str], SlurmSettings], tmp_path: Path) -> None:
    secrets = tmp_path / "env"
    secrets.touch(0o600)
    found = slurm(f"env_file: {secrets}\n")
    secrets.unlink()
    assert (
        subprocess.run(["bash", "-c", "\n".join([*found.script, "exit 0"])], stderr=subprocess.DEVNULL).returncode == 3
    )


def test_options_of_sbatch(slurm: Callable[[str], SlurmSettings]) -> None:
    assert slurm("").gpu_option(2) == {"gres": "gpu:2"}
    assert slurm("gres: gpu:a100:{gpus}").gpu_option(4) == {"gres": "gpu:a100:4"}
    assert slurm("gres: gpus_per_node").gpu_option(4) == {"gpus-per-node": "4"}
    assert slurm("gres: gpus_per_node").gpu_option(0) == {}
    both = slurm("partition: gpu\ncpu_partition: cpu")
    assert [both.partition_of(gpus) for gpus in (0, 1)] == ["cpu", "gpu"]
    assert slurm("partition: gpu").partition_of(0) == "gpu"
    assert shlex.split(slurm("").command) == [sys.executable]


def test_sites_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    own = tmp_path / "nagbench"
    with pytest.raises(BadInput, match=r"site\.yaml: there is no such file\. Copy it from an example in .*sites, or"):
        read_site()
    own.mkdir()
    (own / "site.yaml").write_text("kind: local\n")
    (own / "slurm.yaml").write_text("kind: local\nworkers: 2\n")
    assert read_site().path == str(own / "site.yaml")
    # The user's own comes before the example of that name.
    assert read_site("slurm").settings == LocalSettings(workers=2)
    assert read_site("slurm_manual").kind == "slurm"
    with pytest.raises(BadInput, match=r"unknown site 'slrum'\. Did you mean 'slurm'\? Known: .*site, slurm"):
        read_site("slrum")
    with pytest.raises(BadInput, match=r"nothing\.yaml: there is no such file"):
        read_site(str(tmp_path / "nothing.yaml"))
    with pytest.raises(BadInput, match="this is a directory"):
        read_site(f"{own}/")


def test_sites_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a source tree, the examples are where pip installed them."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    installed = tmp_path / "data/share/nagbench/sites"
    installed.mkdir(parents=True)
    (installed / "installed.yaml").write_text("kind: local\n")
    monkeypatch.setattr(examples.sysconfig, "get_path", lambda name: str(tmp_path / name))
    assert "installed" not in {path.stem for path in folders()[1].glob("*.yaml")}  # the source tree has its own
    monkeypatch.setattr(examples, "SOURCE", tmp_path / "site-packages")
    assert find_site("installed") == installed / "installed.yaml"
    with pytest.raises(BadInput, match=r"unknown site 'slurm'\..*Known: installed"):
        find_site("slurm")


def test_reading_a_site_is_instant(tmp_path: Path) -> None:
    code = "import sys\nfor name in ('torch', 'ray', 'submitit', 'numpy'): sys.modules[name] = None\n"
    code += f"from orchestrator.backends.site import read_site\nread_site({str(SITES[0].parent / 'slurm.yaml')!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3], timeout=60)


@pytest.mark.parametrize(
    "line",
    [
        "export TOKEN=$(cat ~/.token)",
        "export TOKEN=`cat ~/.token`",
        'API_KEY="$(cat /run/key)"',
        "export WANDB_API_KEY=$KEY",
        "export TOKENIZERS_PARALLELISM=false",
        "export HF_TOKEN_PATH=/home/me/token",
        "export DB=postgres://me:$PASSWORD@host/db",
        "export NCCL_IB_PKEY=0 MONKEY=1",
        "ssh -N -L 5432:db:5432 me@host",
        "unset AWS_SECRET_ACCESS_KEY",
    ],
)
def test_what_holds_no_secret_is_fine(slurm: Callable[[str], SlurmSettings], line: str) -> None:
    assert slurm(f"setup: [{json.dumps(line)}]\n").setup == (line,)


def test_how_memory_and_gpus_are_requested(slurm: Callable[[str], SlurmSettings]) -> None:
    needs = Resources(minutes=5, memory_gb=10, cpus=4, gpus=2, nodes=3)

    def asked(text: str, resources: Resources = needs) -> dict[str, Any]:
        found = options(slurm(text), "x", resources, 2, ())["additional_parameters"]
        return {key: value for key, value in found.items() if "mem" in key or "g" in key[0]}

    assert asked("") == {"gres": "gpu:2", "mem": "10240M"}
    assert asked("memory: none\ngpus: --gpus\n") == {"gpus": "6"}
    assert asked("memory: per_cpu\ngpus: --gpus-per-task\n") == {"gpus-per-task": "1", "mem-per-cpu": "2560M"}
    typed = "gres: gpu:a100:{gpus}\ngpus: --gpus-per-node\nmemory: per_gpu\n"
    assert asked(typed) == {"gpus-per-node": "a100:2", "mem-per-gpu": "5120M"}
    assert asked(typed, Resources(5, 10, 4, 0)) == {"mem": "10240M"}
    parts = Resources(5, 10, 4, 1)  # shards and parts of a GPU (MIG) are gres too
    assert asked("gres: shard:{gpus}\nmemory: none\n", parts) == {"gres": "shard:1"}
    assert asked("gres: gpu:1g.10gb:{gpus}\nmemory: none\n", parts) == {"gres": "gpu:1g.10gb:1"}


def test_more_options_of_sbatch(slurm: Callable[[str], SlurmSettings]) -> None:
    text = (
        "exclude: n[1-4]\nreservation: r\nnice: 7\ncomment: a b\nlicenses: m:1\nextra: [--mail-type=FAIL, --exclusive]"
    )
    given = options(slurm(f"{text}\n"), "x", Resources(5, 1, 1, 0), 1, ())
    assert given["exclude"] == "n[1-4]"
    more = {
        "reservation": "r",
        "nice": "7",
        "comment": "a b",
        "licenses": "m:1",
        "mail-type": "FAIL",
        "exclusive": True,
    }
    assert more.items() <= given["additional_parameters"].items()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--array=0-9", "nagbench sets --array itself"),
        ("--mem=4G", "nagbench sets --mem itself; set stages instead"),
        ("--mail-user=x", "nagbench sets --mail-user itself; set mail_user instead"),
        ("-p gpu", "is not of the form --name or --name=value"),
    ],
)
def test_extra_options_that_are_not_the_sites(slurm: Callable[[str], SlurmSettings], word: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        slurm(f"extra: ['{word}']\n")
