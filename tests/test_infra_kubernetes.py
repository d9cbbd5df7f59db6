import copy
import re

import kubernetes_validate
import pytest
import yaml

from tests.deployment import (
    DEFINITIONS,
    FILES,
    FOLDERS,
    INFRA,
    JOBS,
    cluster,
    containers,
    definition,
    head,
    objects,
    pods,
    ray_job,
    ray_object,
    workers,
)
from tests.readme_tree import ROOT
from tests.structural import problems
from workers.settings import LabelSettings

VERSIONS = ("1.34", "1.37")
"""Of Kubernetes: that of infra/aws/eks.yaml, and the newest that is known here."""
GRACE_SECONDS = LabelSettings.model_fields["grace_seconds"].default


def validate(thing):
    for version in VERSIONS:
        kubernetes_validate.validate(thing, version, strict=True)


def of_kubernetes(folder):
    return [each for each in objects(folder) if each["apiVersion"] != "ray.io/v1"]


def environment(container):
    return {each["name"]: each for each in container.get("env", [])}


def test_every_object_keeps_to_the_schemas_of_kubernetes():
    found = [each for folder in FOLDERS for each in of_kubernetes(folder)]
    assert {"NetworkPolicy", "ServiceAccount"} <= {each["kind"] for each in found}
    for each in found:
        validate(each)  # raises what is wrong


def test_a_misspelt_key_of_kubernetes_is_refused():
    thing = copy.deepcopy(next(each for each in objects("setup") if "spec" in each))
    thing["spec"]["podSelektor"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(thing)


@pytest.mark.parametrize("folder", JOBS)
def test_every_pod_keeps_to_the_schemas_of_kubernetes(folder):
    found = pods(folder)
    assert "head" in found
    for name, template in found.items():
        about = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}}
        validate({**about, "template": template})


@pytest.mark.parametrize("folder", JOBS)
def test_every_object_of_kuberay_has_only_keys_that_its_definition_names(folder):
    thing = ray_object(folder)
    assert list(problems(thing, definition(thing["kind"]))) == []


def test_the_cluster_that_all_are_copied_from_is_sound_by_itself():
    thing = yaml.safe_load((INFRA / "kuberay/cluster/cluster.yaml").read_text(encoding="utf-8"))
    assert list(problems(thing, definition("RayCluster"))) == []


@pytest.mark.parametrize("path", ["spec", "spec.rayClusterSpec.headGroupSpec.template.spec"])
def test_a_misspelt_key_of_kuberay_is_refused(path):
    thing = copy.deepcopy(ray_object("label"))
    place = thing
    for name in path.split("."):
        place = place[name]
    place["entrypiont"] = "python"
    assert list(problems(thing, definition("RayJob"))) == [f".{path}: unknown key entrypiont"]


def test_the_definitions_are_beside_the_repository_where_it_is_checked():
    if not DEFINITIONS.is_dir():
        pytest.skip("../shared/data/kuberay is not at hand: KubeRay's objects are not checked here")
    assert {"rayjobs", "raycronjobs", "rayclusters"} == {
        path.stem.removeprefix("ray.io_") for path in DEFINITIONS.glob("*.yaml")
    }


# ---- what they are for ----


@pytest.mark.parametrize("folder", JOBS)
def test_every_cluster_asks_for_a_token_that_stands_in_no_file(folder):
    assert cluster(folder)["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    for _, container in containers(folder):
        told = environment(container)
        assert "RAY_AUTH_MODE" not in told  # the image says it, and KubeRay does
        if "RAY_AUTH_TOKEN" in told:
            assert told["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "ray-token"
    assert not [each for each in objects(folder) if each["kind"] == "Secret"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_is_open_to_the_outside(folder):
    assert {each["kind"] for each in objects(folder)} <= {
        *("Namespace", "ServiceAccount", "NetworkPolicy", "ConfigMap"),
        *("RayJob", "RayCronJob", "RayCluster"),
    }
    if folder in JOBS:
        group = cluster(folder)["headGroupSpec"]
        assert not {"enableIngress", "serviceType", "headService", "ingressOptions"} & group.keys()
        assert not any(pod["spec"].get("hostNetwork") for pod in pods(folder).values())


def test_the_dashboard_is_reached_from_inside_and_by_the_operator_only():
    policies = [each["spec"] for each in objects("setup") if each["kind"] == "NetworkPolicy"]
    assert all(policy["podSelector"] == {} for policy in policies)
    ways = [way for policy in policies for way in policy.get("ingress", [])]
    assert [way for way in ways if "ports" not in way] == [{"from": [{"podSelector": {}}]}]
    by_port = {port["port"]: way["from"] for way in ways for port in way.get("ports", [])}
    assert by_port.keys() == {8265, 8080}
    (operator,) = by_port[8265]
    assert operator["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}
    assert "namespaceSelector" in operator


def test_no_pod_reaches_the_credentials_of_its_machine():
    policies = [each["spec"] for each in objects("setup") if each["kind"] == "NetworkPolicy"]
    out = next(policy for policy in policies if policy["policyTypes"] == ["Egress"])
    blocks = [to["ipBlock"] for way in out["egress"] for to in way["to"] if "ipBlock" in to]
    assert {block["cidr"]: block["except"] for block in blocks} == {
        "0.0.0.0/0": ["169.254.169.254/32"],
        "::/0": ["fd00:ec2::254/128"],
    }


@pytest.mark.parametrize("folder", JOBS)
def test_every_container_is_a_nobody_that_says_what_it_needs(folder):
    for pod in pods(folder).values():
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"]
        assert security["runAsUser"] == 1000
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for _, container in containers(folder):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("folder", JOBS)
def test_gpus_are_where_replicas_are_and_nowhere_else(folder):
    machines = yaml.safe_load((INFRA / "aws/eks.yaml").read_text(encoding="utf-8"))
    groups = {group["name"]: group for group in machines["managedNodeGroups"]}
    for name, pod in pods(folder).items():
        group = groups["gpu" if name == "worker" else "head"]
        assert pod["spec"]["nodeSelector"].items() <= group["labels"].items()
        tolerated = {each["key"] for each in pod["spec"].get("tolerations", [])}
        assert tolerated == {each["key"] for each in group.get("taints", [])}
    for name, container in containers(folder):
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (name == "worker")


@pytest.mark.parametrize("folder", JOBS)
def test_what_a_run_costs_has_a_wall_and_machines_without_work_go(folder):
    (group,) = cluster(folder)["workerGroupSpecs"]
    assert cluster(folder)["enableInTreeAutoscaling"]
    assert (group["replicas"], group["minReplicas"]) == (0, 0)
    assert group["maxReplicas"] <= 8
    if job := ray_job(folder):
        assert job["shutdownAfterJobFinishes"]
        assert job["ttlSecondsAfterFinished"] <= 600


@pytest.mark.parametrize("folder", JOBS)
def test_a_driver_that_is_told_to_stop_gets_its_grace(folder):
    pod = head(folder)["spec"]
    ray = pod["containers"][0]
    wait = int(environment(ray)["RAY_JOB_STOP_WAIT_TIME_S"]["value"])
    assert wait > GRACE_SECONDS
    assert pod["terminationGracePeriodSeconds"] > wait
    hook = ray["lifecycle"]["preStop"]["exec"]["command"]
    compile(hook[-1], "preStop", "exec")
    assert "stop_job" in hook[-1]


@pytest.mark.parametrize("folder", JOBS)
def test_a_worker_whose_machine_is_taken_away_leaves_in_order(folder):
    (template,) = workers(folder)
    (container,) = template["spec"]["containers"]
    *stop, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert stop == ["ray", "stop", "--grace-period"]
    assert int(seconds) < template["spec"]["terminationGracePeriodSeconds"] < 120  # spot's notice


@pytest.mark.parametrize("folder", JOBS)
def test_weights_lie_where_jobs_keep_them_and_fit(folder):
    kept = LabelSettings.model_fields["model_cache"].default.as_posix()
    for pod in (head(folder), *workers(folder)):
        container = pod["spec"]["containers"][0]
        paths = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert paths["weights"] == kept.replace("~", "/home/ray")
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        room = container["resources"]["requests"]["ephemeral-storage"]
        assert int(volumes["weights"]["emptyDir"]["sizeLimit"][:-2]) < int(room[:-2])


@pytest.mark.parametrize("folder", JOBS)
def test_all_containers_of_a_cluster_have_the_same_image_and_the_ray_that_was_tried(folder):
    assert len({container["image"] for _, container in containers(folder)}) == 1
    lock = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert cluster(folder)["rayVersion"] == re.search(r"^ray==(\S+)$", lock, re.M)[1]


def test_training_has_a_role_of_its_own_and_a_gpu_for_each_process():
    accounts = {name: pod["spec"].get("serviceAccountName") for name, pod in pods("train").items()}
    assert accounts == {"head": "pixellm-train", "worker": "pixellm-train", "submitter": None}
    processes = int(re.search(r"--num-workers (\d+)", ray_job("train")["entrypoint"])[1])
    assert processes == cluster("train")["workerGroupSpecs"][0]["maxReplicas"]


def test_the_nightly_job_reads_the_settings_that_it_is_started_with():
    entrypoint = ray_job("nightly")["entrypoint"].split()
    config = entrypoint[entrypoint.index("--config") + 1]
    pod = head("nightly")["spec"]
    mounted = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    folder, _, name = config.rpartition("/")
    volume = next(each for each in pod["volumes"] if each["name"] == mounted[folder])
    settings = next(each for each in objects("nightly") if each["kind"] == "ConfigMap")
    assert volume["configMap"]["name"] == settings["metadata"]["name"]
    assert name in settings["data"]


def test_the_standing_jobs_own_deadline_comes_before_that_of_kubernetes():
    settings = next(each for each in objects("nightly") if each["kind"] == "ConfigMap")
    told = yaml.safe_load(settings["data"]["nightly.yaml"])["deadline"]
    hours, minutes = re.fullmatch(r"(\d+)h(\d+)m", told).groups()
    assert int(hours) * 3600 + int(minutes) * 60 < ray_job("nightly")["activeDeadlineSeconds"]


def test_no_file_holds_a_secret():
    secret = re.compile(r"AKIA[0-9A-Z]{16}|aws_secret_access_key|-----BEGIN|\b[0-9a-f]{40,}\b")
    for path in FILES:
        assert not secret.search(path.read_text(encoding="utf-8")), path
