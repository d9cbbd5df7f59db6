from tests.watching.sqs import MOST_TIMES
from workers.doctor.findings import Outcome
from workers.doctor.queues import LEAST_TIMES, check_queue


def found(url):
    return {finding.check: finding for finding in check_queue(url)}


def test_without_a_queue_there_is_nothing_to_look_at():
    assert found(None)["queue"].outcome is Outcome.SKIPPED


def test_a_queue_that_gives_up_soon_is_warned_of(sqs):
    sqs.send("one")
    findings = found(sqs.url)
    assert findings["queue.attributes"].outcome is Outcome.OK
    assert "1 messages wait" in findings["queue.attributes"].seen
    assert MOST_TIMES < LEAST_TIMES
    assert findings["queue.dead_letters"].outcome is Outcome.WARNING
    assert "maxReceiveCount" in findings["queue.dead_letters"].to_do


def test_a_queue_without_a_place_for_dead_letters_is_warned_of(sqs):
    assert found(sqs.dead)["queue.dead_letters"].outcome is Outcome.WARNING


def test_a_queue_that_gives_up_late_is_fine(sqs):
    sqs.let_receive(5)
    assert found(sqs.url)["queue.dead_letters"].outcome is Outcome.OK


def test_a_queue_that_is_not_there_is_a_failure(sqs):
    finding = found(f"{sqs.url}-none")["queue.attributes"]
    assert finding.outcome is Outcome.FAILURE
    assert "sqs:ReceiveMessage" in finding.to_do or "ReceiveMessage" in finding.to_do


def test_what_is_no_queue_is_a_failure():
    assert found("https://example.com")["queue.attributes"].outcome is Outcome.FAILURE
