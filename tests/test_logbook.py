from workers.logbook import TELL_SECONDS, Teller


def test_a_teller_sends_the_newest_counts_once_in_a_while(monkeypatch):
    now, sent = 100.0, []
    monkeypatch.setattr("workers.logbook.time.monotonic", lambda: now)
    tell = Teller(lambda counts: sent.append(dict(counts)))
    tell("a", 1)
    for count in (2, 3):
        tell("a", count)
    tell("b", 1)
    assert sent == [{"a": 1}]
    now += TELL_SECONDS
    tell("b", 2)
    assert sent == [{"a": 1}, {"a": 3, "b": 2}]
    tell("b", 3)
    tell.flush()
    tell.flush()
    assert sent[2:] == [{"b": 3}]
