"""The files of infra/ as tests see them: what `kubectl kustomize` makes of them, and pods in it."""

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import yaml

from tests.readme_tree import ROOT
from tests.structural import META

INFRA = ROOT / "infra"
KUBERAY = INFRA / "kuberay"
JOBS = ("label", "train", "nightly", "watch")
"""Folders that make a Ray cluster each."""
FOLDERS = ("setup", *JOBS)
STANDING = ROOT / "jobs" / "standing"
DEFINITIONS = ROOT.parent / "shared" / "data" / "kuberay"
"""KubeRay's own, of version 1.7, too large for this repository."""
FILES = [
    path
    for folder in (INFRA, STANDING)
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path.suffix != ".pyc"
]

Object = dict[str, Any]


@cache
def objects(folder: str) -> list[Object]:
    """What Kubernetes would be sent."""
    here = sysconfig.get_path("scripts")
    kubectl = shutil.which("kubectl", path=f"{here}{os.pathsep}{os.environ['PATH']}")
    assert kubectl, "there is no kubectl: make setup installs it"
    done = subprocess.run(
        [kubectl, "kustomize", str(KUBERAY / folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def ray_object(folder: str) -> Object:
    """The one that makes a Ray cluster."""
    return next(each for each in objects(folder) if each["apiVersion"] == "ray.io/v1")


def ray_job(folder: str) -> Object:
    """What is said of the job; empty for a cluster without one."""
    spec = ray_object(folder)["spec"]
    return {} if folder == "watch" else spec.get("jobTemplate", spec)


def cluster(folder: str) -> Object:
    """Its Ray cluster."""
    return ray_job(folder).get("rayClusterSpec") or ray_object(folder)["spec"]


def head(folder: str) -> Object:
    """The pod template of its head."""
    return cluster(folder)["headGroupSpec"]["template"]


def workers(folder: str) -> list[Object]:
    """The pod templates of its workers."""
    return [group["template"] for group in cluster(folder)["workerGroupSpecs"]]


def pods(folder: str) -> dict[str, Object]:
    """Every pod template in it, by what it is for."""
    found = {"head": head(folder), "worker": workers(folder)[0]}
    submitter = ray_job(folder).get("submitterPodTemplate")
    return {**found, **({"submitter": submitter} if submitter else {})}


def containers(folder: str) -> Iterator[tuple[str, Object]]:
    """Every container in it, by the pod that it is in."""
    for name, pod in pods(folder).items():
        for container in pod["spec"]["containers"]:
            yield name, container


@cache
def definition(kind: str) -> Object:
    """The schema of one of KubeRay's kinds; where it is not at hand, the test is skipped."""
    path = DEFINITIONS / f"ray.io_{kind.lower()}s.yaml"
    if not path.is_file():
        pytest.skip(f"KubeRay's definitions are not at hand: {path.name} in ../shared/data/kuberay")
    whole = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    version = next(each for each in whole["spec"]["versions"] if each["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    return {**schema, "properties": {**schema["properties"], "metadata": META}}
