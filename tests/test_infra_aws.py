import json
import re
from fnmatch import fnmatchcase

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.deployment import INFRA, ROOT, head, objects
from workers.doctor.storage import PROBES
from workers.labels.commits import MARKERS
from workers.training.claims import RUNNING
from workers.training.states import STATES
from workers.watching.cursor import MARKED, WATCH
from workers.watching.leases import LEASES

AWS = INFRA / "aws"
POLICIES = sorted((AWS / "policies").glob("*.json"))
CLUSTER = yaml.safe_load((AWS / "cluster.yaml").read_text(encoding="utf-8"))
UNNARROWED = {"ec2:DescribeInstances", "ec2:DescribeInstanceStatus", "ec2:DescribeInstanceTypes"}
"""AWS knows no resource for these: they are allowed for all or not at all."""
OF_KUBERNETES = {"label", "train", "read"}
PHOTOS = "arn:aws:s3:::example-photos/drops/friday/1.jpg"
LABELS = "arn:aws:s3:::example-labels/drops"
TUNED = "arn:aws:s3:::example-models/tuned"
WEIGHTS = "arn:aws:s3:::example-models/pixellm-7b/model.safetensors"


def read(name):
    return json.loads((AWS / name).read_text(encoding="utf-8"))


def listed(value):
    return [value] if isinstance(value, str) else value


def allows(name, action, resource):
    """Whether a policy allows it, where its conditions hold."""
    return any(
        action in listed(each["Action"])
        and any(fnmatchcase(resource, pattern) for pattern in listed(each["Resource"]))
        for each in read(f"policies/{name}.json")["Statement"]
    )


def accepted(service, operation, **given):
    """Whether AWS's own description of an operation knows all that it is given."""
    model = botocore.session.get_session().get_service_model(service)
    report = ParamValidator().validate(given, model.operation_model(operation).input_shape)
    assert not report.has_errors(), report.generate_report()
    return True


# ---- roles ----


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_a_role_names_what_it_may_do_and_to_what(path):
    policy = json.loads(path.read_text(encoding="utf-8"))
    assert policy.keys() == {"Version", "Statement"}
    assert policy["Version"] == "2012-10-17"
    for each in policy["Statement"]:
        assert each.keys() <= {"Sid", "Effect", "Action", "Resource", "Condition"}
        assert each["Effect"] == "Allow"
        assert each["Sid"].isalnum()
        actions = listed(each["Action"])
        assert not any("*" in action for action in actions)
        if set(actions) <= UNNARROWED:
            continue
        for resource in listed(each["Resource"]):
            service, name = resource.split(":")[2], resource.split(":", 5)[5]
            assert service == actions[0].split(":")[0]
            assert not name.startswith("*")
    assert len({each["Sid"] for each in policy["Statement"]}) == len(policy["Statement"])


def test_nobody_writes_where_photos_are():
    for path in POLICIES:
        for action in ("s3:PutObject", "s3:DeleteObject"):
            assert not allows(path.stem, action, PHOTOS)


def test_the_labelling_role_can_do_what_the_line_does():
    assert allows("label", "s3:ListBucket", "arn:aws:s3:::example-photos")
    assert allows("label", "s3:GetObject", PHOTOS)
    assert allows("label", "s3:GetObject", WEIGHTS)
    for name in ("labels/run/shard.parquet", f"{MARKERS}/run/shard.json", "_status.json"):
        assert allows("label", "s3:PutObject", f"{LABELS}/friday/{name}")
    assert allows("label", "s3:DeleteObject", f"{LABELS}/_watch/leases/friday/00000007.json")


def test_the_labelling_role_can_do_with_the_queue_what_the_watcher_does():
    text = (ROOT / "workers/watching/event_queue.py").read_text(encoding="utf-8")
    calls = set(re.findall(r"_(?:client|listener)\.(\w+?)(?:_batch)?\(", text))
    assert len(calls) == 4
    queue = read("notification.json")["QueueConfigurations"][0]["QueueArn"]
    for call in calls:  # of a batch, AWS asks for the right to do it with one
        assert allows("label", f"sqs:{call.title().replace('_', '')}", queue), call


REMOVED = {
    "workers/doctor/storage.py": ("label", f"{LABELS}/{PROBES}/probe-0a1b"),
    "workers/labels/commits.py": ("label", f"{LABELS}/friday/{MARKERS}/_probe-0a1b"),
    "workers/training/claims.py": ("train", f"{TUNED}/{RUNNING}"),
    "workers/training/states.py": ("train", f"{TUNED}/{STATES}/00000100/rest.json"),
    "workers/watching/cursor.py": ("label", f"{LABELS}/{WATCH}/{MARKED}/friday/0a1b.jsonl.gz"),
    "workers/watching/leases.py": ("label", f"{LABELS}/{WATCH}/{LEASES}/friday/00000007.json"),
}
"""What modules delete, and who must be allowed to."""
MAY_STAY = {"workers/scoring/evaluation.py", "workers/storage/stores.py"}
"""The one goes on where it may not delete; the other does it for all of them."""


def test_every_module_that_deletes_says_here_who_must_be_allowed_to():
    modules = {path: path.read_text(encoding="utf-8") for path in (ROOT / "workers").rglob("*.py")}
    deleting = {
        path.relative_to(ROOT).as_posix()
        for path, text in modules.items()
        if re.search(r"store(\(uri\))?\.delete\(", text)
    }
    assert deleting == REMOVED.keys() | MAY_STAY


@pytest.mark.parametrize(("role", "what"), REMOVED.values(), ids=REMOVED)
def test_a_role_may_remove_what_the_project_removes(role, what):
    assert allows(role, "s3:DeleteObject", what)


def test_the_doctor_may_remove_its_probes_beside_a_drops_labels_too():
    assert allows("label", "s3:DeleteObject", f"{LABELS}/friday/{PROBES}/probe-0a1b")


def test_the_labelling_role_can_remove_no_label_and_change_no_model():
    names = "labels/run/shard.parquet", f"{MARKERS}/run/shard.json", "_status.json"
    for name in (*names, f"labels/{PROBES}.parquet", f"{PROBES}/part.parquet"):
        assert not allows("label", "s3:DeleteObject", f"{LABELS}/friday/{name}")
    assert not allows("label", "s3:PutObject", WEIGHTS)


def test_the_training_role_writes_below_its_own_prefix_only():
    assert allows("train", "s3:PutObject", "arn:aws:s3:::example-models/tuned/model/config.json")
    assert not allows("train", "s3:PutObject", WEIGHTS)
    assert not allows("train", "s3:PutObject", f"{LABELS}/friday/labels/run/shard.parquet")


def test_the_reading_role_has_no_other_verbs():
    statements = read("policies/read.json")["Statement"]
    assert {each["Action"] for each in statements} == {"s3:ListBucket", "s3:GetObject"}


def test_the_head_ends_machines_of_its_own_cluster_only():
    conditions = {
        action: each.get("Condition", {})
        for each in read("policies/head.json")["Statement"]
        for action in listed(each["Action"])
    }
    tag = {"StringEquals": {"ec2:ResourceTag/ray-cluster-name": CLUSTER["cluster_name"]}}
    assert conditions["ec2:TerminateInstances"] == tag
    assert conditions["iam:PassRole"]


def test_every_account_has_the_role_that_is_called_like_it():
    accounts = {
        each["metadata"]["name"]: each["metadata"]["annotations"]["eks.amazonaws.com/role-arn"]
        for each in objects("setup")
        if each["kind"] == "ServiceAccount"
    }
    assert accounts.keys() == {f"pixellm-{name}" for name in OF_KUBERNETES}
    assert {path.stem for path in POLICIES} >= OF_KUBERNETES
    for name, role in accounts.items():
        assert role == f"arn:aws:iam::111122223333:role/{name}"
    assert head("label")["spec"]["serviceAccountName"] in accounts


def test_a_role_is_taken_by_one_account_of_one_cluster():
    (statement,) = read("trust-pods.json")["Statement"]
    provider = statement["Principal"]["Federated"].partition("oidc-provider/")[2]
    assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"
    assert statement["Condition"] == {
        "StringEquals": {
            f"{provider}:aud": "sts.amazonaws.com",
            f"{provider}:sub": "system:serviceaccount:pixellm:pixellm-label",
        }
    }


# ---- news ----


def test_the_queues_are_what_the_service_knows():
    for name, file in (("pixellm-news", "queue.json"), ("pixellm-news-dead", "queue-dead.json")):
        attributes = read(file)
        assert accepted("sqs", "CreateQueue", QueueName=name, Attributes=attributes)
        assert all(isinstance(value, str) for value in attributes.values())


def test_a_message_that_nobody_can_read_ends_where_a_person_finds_it():
    redrive = json.loads(read("queue.json")["RedrivePolicy"])
    allowed = json.loads(read("queue-dead.json")["RedriveAllowPolicy"])
    queue = read("notification.json")["QueueConfigurations"][0]["QueueArn"]
    assert redrive["deadLetterTargetArn"] == f"{queue}-dead"
    assert allowed["sourceQueueArns"] == [queue]
    assert int(redrive["maxReceiveCount"]) > 1  # a watcher that is killed must not use it up


def test_the_bucket_tells_the_queue_that_the_watcher_asks():
    notification = read("notification.json")
    given = {"Bucket": "example-photos", "NotificationConfiguration": notification}
    assert accepted("s3", "PutBucketNotificationConfiguration", **given)
    (news,) = notification["QueueConfigurations"]
    assert news["Events"] == ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
    (policy,) = read("queue-policy.json")["Statement"]
    assert policy["Resource"] == news["QueueArn"]
    assert policy["Condition"]["ArnEquals"]["aws:SourceArn"] == "arn:aws:s3:::example-photos"
    assert policy["Condition"]["StringEquals"]["aws:SourceAccount"] == "111122223333"
    assert allows("label", "sqs:ReceiveMessage", news["QueueArn"])
    watch = next(each for each in head("watch")["spec"]["containers"] if each["name"] == "watch")
    told = dict(word.split("=", 1) for word in watch["args"] if "=" in word)
    *_, region, account, name = news["QueueArn"].split(":")
    assert told["--queue-url"] == f"https://sqs.{region}.amazonaws.com/{account}/{name}"
    (rule,) = news["Filter"]["Key"]["FilterRules"]
    assert told["--input"] == f"s3://example-photos/{rule['Value'].rstrip('/')}"


# ---- ray up ----


def test_the_cluster_file_keeps_to_rays_own_schema():
    whole = prepare_config(CLUSTER)
    validate_config(whole)
    assert whole["max_workers"] == CLUSTER["max_workers"]


def test_a_misspelt_key_of_the_cluster_file_is_refused():
    with pytest.raises(Exception, match="idle_timeout_minuten"):
        validate_config({**prepare_config(CLUSTER), "idle_timeout_minuten": 5})


@pytest.mark.parametrize("kind", ["head", "gpu"])
def test_machines_are_what_the_service_knows(kind):
    machine = CLUSTER["available_node_types"][kind]["node_config"]
    assert accepted("ec2", "RunInstances", MinCount=1, MaxCount=1, **machine)
    assert machine["MetadataOptions"]["HttpTokens"] == "required"


def test_the_cluster_of_plain_machines_asks_for_a_token_and_shows_its_dashboard_to_nobody():
    assert CLUSTER["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    image = (INFRA / "Dockerfile").read_text(encoding="utf-8")
    assert "RAY_AUTH_MODE=token" in image
    assert "--dashboard-host=127.0.0.1" in " ".join(CLUSTER["head_start_ray_commands"])
    assert CLUSTER["docker"]["image"] == head("label")["spec"]["containers"][0]["image"]


def test_the_driver_on_a_plain_machine_gets_its_grace_too():
    pod = head("label")["spec"]["containers"][0]
    (wait,) = [each for each in pod["env"] if each["name"] == "RAY_JOB_STOP_WAIT_TIME_S"]
    assert f"--env RAY_JOB_STOP_WAIT_TIME_S={wait['value']}" in CLUSTER["docker"]["run_options"]
