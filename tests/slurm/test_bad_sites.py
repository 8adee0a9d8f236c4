"""What a cluster will not have: a clear error, its own words, and nothing half queued."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.running import SMALL, Place, changed


@pytest.fixture
def place(slurm: Cluster, tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "me", slurm)
    made.closed()
    yield made
    slurm.run("scancel", "--user=root")


def nothing(place: Place) -> bool:
    return (place.queue(), place.open_waves()) == ({}, [])


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        (
            "partition: closed\n",
            "partition: gpus\n",
            2,
            "partition: the cluster has no partition 'gpus'. It has: closed",
        ),
        ("cpu_partition: closed_cpu", "cpu_partition: x", 2, "cpu_partition: the cluster has no partition 'x'."),
        (
            *("partition: closed\n", "partition: closed,gpu\n", 2),
            "stages.train.minutes is 3000, but partition gpu ends jobs after 1440; such a job would never start",
        ),
        (
            "kind: slurm",
            "kind: slurm\naccount: nobody",
            3,
            "Invalid account or account/partition combination",
        ),
        ("kind: slurm", "kind: slurm\nqos: nosuch", 3, "Invalid qos specification"),
        ("kind: slurm", "kind: slurm\nconstraint: a100", 3, "Invalid feature specification"),
        ("kind: slurm", "kind: slurm\ngres: gpu:a100:{gpus}", 3, "Requested node configuration is not available"),
        (
            "train: {minutes: 6, memory_gb: 2",
            "train: {minutes: 6, memory_gb: 900",
            3,
            "Memory specification can",
        ),
        ("train: {minutes: 6", "train: {gpus: 4, minutes: 6", 3, "Requested node configuration is not available"),
    ],
)
def test_what_the_cluster_does_not_have(place: Place, old: str, new: str, code: int, words: str) -> None:
    site = place.folder / "site.yaml"
    text = changed(site.read_text(), old, new)
    site.write_text(text.replace("train: {minutes: 6", "train: {minutes: 3000") if "3000" in words else text)
    refused = place("submit")
    assert refused.exit_code == code, refused.output
    assert words in refused.output.replace("\n", " ")
    assert nothing(place)
    place.closed()
    assert place("submit").exit_code == 0  # mended, the same command goes on
    assert len(place.array_tasks()) == 5


@pytest.mark.parametrize("fails", [4, 6, 7])  # an array, the reconcile job, the one that stands in for it
def test_a_refusal_in_the_middle_takes_back_what_is_queued(place: Place, tmp_path: Path, fails: int) -> None:
    place.closed("reconcile: manual", "reconcile: job")
    folder = tmp_path / "bin"
    folder.mkdir()
    said = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)"
    (folder / "sbatch").write_text(
        f'#!/bin/sh\nPATH="${{PATH#*:}}"\necho x >> {folder}/n\n'
        f'[ "$(wc -l < {folder}/n)" -lt {fails} ] && exec sbatch "$@"\necho "{said}" >&2\nexit 1\n'
    )
    (folder / "sbatch").chmod(0o755)
    refused = place("submit", env={"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"})
    assert refused.exit_code == 3
    assert "sbatch refused nb.root.small." in refused.output
    assert "Job violates accounting/QOS policy (job submit limit)" in refused.output
    assert refused.output.count("queued ") == fails - 1
    assert nothing(place)


def test_no_slurm_here(place: Place) -> None:
    refused = place("submit", env=place.cluster.without("sbatch", "scontrol", "squeue"))
    assert refused.exit_code == 3
    assert "there is no such command here; is this a login node of the cluster?" in refused.output
    assert nothing(place)


def test_a_store_of_this_process_alone(place: Place) -> None:
    refused = place("submit", "--store", "memory://store")
    assert refused.exit_code == 2
    assert "store memory://store exists in this process only; the nodes cannot see it" in refused.output
    assert nothing(place)


def test_a_remote_store_needs_a_shared_folder(place: Place) -> None:
    from moto.server import ThreadedMotoServer  # an object store on this machine

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    env = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    try:
        with place.inside(env):
            import s3fs

            s3fs.S3FileSystem(endpoint_url=env["AWS_ENDPOINT_URL"], key="x", secret="x").mkdir("bucket")
        refused = place("submit", "--store", "s3://bucket/store", env=env)
        assert refused.exit_code == 2, refused.output
        assert (
            "folder is missing. Store s3://bucket/store is not a folder; name one that all nodes share"
            in refused.output
        )
    finally:
        server.stop()


def test_weights_that_are_not_here(place: Place) -> None:
    place.sweep(changed(SMALL, "features: [pixels]", "features: [{name: inception, weights: nowhere.pt}]"))
    refused = place("submit")
    assert refused.exit_code == 2
    assert "nowhere.pt" in refused.output
    assert nothing(place)


def test_a_folder_that_the_nodes_do_not_see(slurm: Cluster, tmp_path: Path) -> None:
    """The submitter has a file system of his own there, which slurmd, outside of his mount namespace, does not see."""
    place = Place(tmp_path / "me", slurm)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    run = f"{sys.executable} -m orchestrator.cli run {place.folder}/sweep.yaml --site {place.folder}/site.yaml"
    script = f"mount -t tmpfs none {hidden} && cd {hidden} && {run} --store {hidden}/store --tracking none"
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces on this machine")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], env=place.env, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "could not run it, and wrote no log" in done.stderr
    assert "Is it on a file system that every node sees?" in done.stderr
    assert not place.queue()
