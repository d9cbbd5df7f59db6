from collections import Counter

import pytest

from workers.training.chance import draw, shuffle


def test_an_order_has_every_number_once_and_is_another_for_another_key():
    one, other = shuffle(100, "a", 1), shuffle(100, "a", 2)
    assert sorted(one) == sorted(other) == list(range(100))
    assert one != other
    assert one == shuffle(100, "a", 1)


def test_orders_and_draws_are_the_same_for_ever():
    """Written down once: a checkpoint of last year must still know what comes next."""
    assert shuffle(8, "rows", 1, 0, 0) == [6, 7, 4, 5, 1, 3, 2, 0]
    assert draw("mix", 1, 2) == 0.6927850445523411


def test_every_order_of_three_comes_about_equally_often():
    seen = Counter(tuple(shuffle(3, number)) for number in range(6000))
    assert len(seen) == 6
    assert min(seen.values()) > 900  # 1000 expected, 29 is a standard deviation


def test_draws_lie_between_0_and_1_and_their_mean_in_the_middle():
    draws = [draw("x", number) for number in range(4000)]
    assert all(0 <= each < 1 for each in draws)
    assert sum(draws) / len(draws) == pytest.approx(0.5, abs=0.02)  # 0.0046 standard deviation


def test_keys_that_read_alike_are_not_the_same():
    assert draw("a", 12) != draw("a1", 2)
    assert draw("1") != draw(1)
