import http.server
import json
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from tests.scoring import box, evaluate, row
from workers.errors import ScoringError
from workers.scoring.judge import Phrases, WordJudge
from workers.scoring.model_judge import ModelJudge, make_judge
from workers.scoring.names import UNJUDGED
from workers.scoring.options import ScoringOptions
from workers.scoring.sums import ALL


def words(true, said):
    (worth,) = WordJudge().judge([Phrases(true, said)])
    return worth


@contextmanager
def endpoint(*replies):
    """A server that answers with these (code, text) in turn, the last one for ever; what it saw."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            code, text = replies[min(len(seen), len(replies) - 1)]
            seen.append((self.path, dict(self.headers), json.loads(body)))
            if callable(text):
                text = text(json.loads(json.loads(body)["messages"][1]["content"]))
            self.send_response(code)
            if code == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()


def completion(content):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})


def ask(url, *pairs, waits=(0.0, 0.0)):
    return ModelJudge(url, "gpt", waits, timeout=5).judge([Phrases(*pair) for pair in pairs])


PAIR = ("the red mug", "a cup")

# ---- words


@pytest.mark.parametrize(
    ("true", "said", "worth"),
    [
        ("the red mug", "A red mug.", 1),
        ("red mug", "red mugs", 1),
        ("red mug", "mug", 2 * 1 / 3),
        ("red mug", "red bed", 2 * 1 / 4),
        ("mug that is red", "red mug", 2 * 2 / 6),
        ("mug mug", "mug", 2 * 1 / 3),
        ("mug", "spoon", 0),
        ("the", "the", 1),
        ("", "", 0),
    ],
)
def test_words_that_both_phrases_have_count(true, said, worth):
    assert words(true, said) == pytest.approx(worth)
    assert words(said, true) == pytest.approx(worth)


def test_a_phrase_of_any_length_is_compared_in_no_time():
    long = " ".join(f"word{n}x" for n in range(50_000))
    assert words(long, long) == 1
    assert words(long, f"other {long}") > 0.9
    assert words("a" * 10**6, "a" * (10**6 - 1) + "b") == 0
    assert words("mug " * 200, "mug") == pytest.approx(2 / 101)


def test_words_are_compared_unless_an_endpoint_is_named():
    pair = Phrases("red mug", "mug")
    assert make_judge(None, None).judge([pair]) == WordJudge().judge([pair])
    with endpoint((200, completion("0.25"))) as (url, _):
        assert make_judge(url, "gpt").judge([pair]) == [0.25]


def test_each_two_phrases_are_asked_about_once():
    with endpoint((200, lambda asked: completion(asked["said"]))) as (url, seen):
        judge = make_judge(url, "gpt")
        one, other = Phrases("mug", "0.25"), Phrases("mug", "0.5")
        assert judge.judge([one, other, one]) == [0.25, 0.5, 0.25]
        assert judge.judge([other, Phrases("cup", "0.5")]) == [0.5, 0.5]
    assert len(seen) == 3


# ---- a model


def test_a_model_is_asked_for_each_pair_and_its_numbers_are_taken(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k-1")
    worths = {"cup": "0.9", "spoon": "0", "mug": " 1.0\n", "pot": "Score: .25."}
    with endpoint((200, lambda asked: completion(worths[asked["said"]]))) as (url, seen):
        pairs = [("mug", said) for said in worths]
        assert ask(url, *pairs) == [0.9, 0, 1, 0.25]
    path, headers, body = seen[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer k-1"
    assert (body["model"], body["temperature"]) == ("gpt", 0)
    assert [each["role"] for each in body["messages"]] == ["system", "user"]


def test_without_a_key_none_is_sent(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with endpoint((200, completion("1"))) as (url, seen):
        assert ask(f"{url}/", PAIR) == [1]
    assert seen[0][0] == "/v1/chat/completions"
    assert "Authorization" not in seen[0][1]


NO_NUMBERS = ["perhaps", "7", "10", "0.5 or 0.7", "-1", "", None, "1e5", "1e-5", "1/10", "1%"]
NO_NUMBERS += ["1 out of 10", "1 %", "0,8", "\u22121", {"a": 1}, "0.5-0.7", "1.5.0"]


@pytest.mark.parametrize("said", NO_NUMBERS)
def test_what_is_no_single_number_from_0_to_1_is_no_judgement(said):
    with endpoint((200, completion(said))) as (url, _):
        assert ask(url, PAIR) == [None]


@pytest.mark.parametrize(
    "said", ["**0.5**", "0.5, I think", "score=0.5", '"0.5"', "(0.50)", "0.5!"]
)
def test_what_stands_around_a_number_is_read_over(said):
    with endpoint((200, completion(said))) as (url, _):
        assert ask(url, PAIR) == [0.5]


@pytest.mark.parametrize("key", ["k-secret\n", " k-secret"])
def test_a_key_from_a_file_has_a_line_break_behind_it(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with endpoint((200, completion("1"))) as (url, seen):
        assert ask(url, PAIR) == [1]
    assert seen[0][1]["Authorization"] == "Bearer k-secret"


@pytest.mark.parametrize("key", ["k-\nsecret", "k secret", "k-s\u00e9cret"])
def test_what_can_be_no_key_is_told_without_it(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with endpoint((200, "")) as (url, seen), pytest.raises(ScoringError) as caught:
        ask(url, PAIR)
    assert "the variable OPENAI_API_KEY holds what no key has" in f"{caught.value}"
    assert "cret" not in f"{caught.value}"
    assert not seen


def test_an_endpoint_that_sends_a_byte_now_and_then_is_not_waited_for():
    class Drip(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                for _ in range(200):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    time.sleep(0.05)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Drip)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        judge = ModelJudge(f"http://127.0.0.1:{server.server_port}", "gpt", (), timeout=0.3)
        with pytest.raises(ScoringError, match=r"no whole reply in 0\.3 seconds"):
            judge.judge([Phrases(*PAIR)])
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("code", [429, 408, 500, 503])
def test_an_endpoint_that_is_busy_is_asked_again(code):
    with endpoint((code, "later"), (code, "later"), (200, completion("0.7"))) as (url, seen):
        assert ask(url, PAIR) == [0.7]
    assert len(seen) == 3


def test_an_endpoint_that_stays_busy_is_given_up():
    with (
        endpoint((503, "later")) as (url, seen),
        pytest.raises(ScoringError, match=r"at http://127.* failed 3 times: 503 Service Unav"),
    ):
        ask(url, PAIR)
    assert len(seen) == 3


def test_an_endpoint_that_refuses_is_asked_once_and_the_key_is_not_told(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k-secret")
    with endpoint((401, "no")) as (url, seen), pytest.raises(ScoringError) as caught:
        ask(url, PAIR)
    assert len(seen) == 1
    assert "refuses: 401 Unauthorized. Look at --judge-url, --judge-model" in f"{caught.value}"
    assert "k-secret" not in f"{caught.value}"


def test_the_key_does_not_follow_where_a_server_points():
    with (
        endpoint((302, ""), (200, completion("1"))) as (url, seen),
        pytest.raises(ScoringError, match="refuses: 302"),
    ):
        ask(url, PAIR)
    assert len(seen) == 1


@pytest.mark.parametrize("text", ["<html>", "{}", '{"choices": []}', "[1]"])
def test_a_reply_in_another_form_is_told(text):
    with (
        endpoint((200, text)) as (url, _),
        pytest.raises(ScoringError, match="reply is no chat completion, but '"),
    ):
        ask(url, PAIR)


def test_an_endpoint_that_is_not_there_is_told():
    with endpoint((200, "")) as (url, _):
        pass
    with pytest.raises(ScoringError, match=r"failed 3 times: .*refused"):
        ask(url, PAIR)


# ---- in an evaluation

GOLD = [
    row([box(0, 0, 4, 4), box(6, 6, 9, 9)], ["mug", "plate"], text="1"),
    row([box(0, 0, 4, 4), box(6, 6, 9, 9)], ["mug", None], text="2"),
]
SAID = [
    row([box(0, 0, 4, 4), box(6, 6, 9, 9)], ["cup", "dish"], text="1"),
    row([box(0, 0, 4, 1), box(6, 6, 9, 9)], ["cup", "dish"], text="2"),
]


def test_a_model_judges_each_two_phrases_of_overlapping_masks_once():
    worths = {"cup": "0.8", "dish": "0.5"}  # one half is not above one half
    with endpoint((200, lambda asked: completion(worths[asked["said"]]))) as (url, seen):
        options = ScoringOptions(judge_url=url, judge_model="gpt")
        found = evaluate(GOLD, SAID, options)
    asked = [json.loads(body["messages"][1]["content"]) for _, _, body in seen]
    assert sorted(asked, key=str) == [
        {"true": "mug", "said": "cup"},
        {"true": "plate", "said": "dish"},
    ]
    # found and named: mug (1), not plate (1); mug (2) is not found; the last has no true name
    assert found.scores[ALL]["phrase_accuracy"] == 1 / 2
    assert found.scores[ALL]["giou_named"] == pytest.approx((1 + 0 + 4 / 16 + 1) / 4)


def test_what_the_judge_has_no_number_for_is_wrong_and_told():
    with endpoint((200, completion("who knows"))) as (url, _):
        found = evaluate(GOLD, SAID, ScoringOptions(judge_url=url, judge_model="gpt"))
    assert found.told == {UNJUDGED: 2}
    assert found.scores[ALL]["phrase_accuracy"] == 0


def test_a_mask_without_a_name_is_wrong_where_the_truth_has_one():
    found = evaluate([row([box(0, 0, 4, 4)], ["mug"])], [row([box(0, 0, 4, 4)], [None])])
    assert (found.scores[ALL]["phrase_accuracy"], found.scores[ALL]["giou_named"]) == (0, 0)
