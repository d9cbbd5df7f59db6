import math

import pytest

from workers.piloting.rates import Range, rate_of
from workers.summaries import Pulse


def steady(rate: float, replicas: int = 1, seconds: int = 100, start: float = 50.0):
    """Pulses of replicas that answer at a steady rate from `start` on."""
    before = [(start - 10 + n, Pulse()) for n in range(10)]
    return before + [
        (start + n, Pulse(replicas, round(rate * replicas * n))) for n in range(seconds + 1)
    ]


def test_a_steady_pilot_has_its_rate_and_hardly_an_interval():
    found = rate_of(steady(12.0))
    assert found.middle == pytest.approx(12.0)
    assert found.high - found.low == pytest.approx(0.0, abs=1e-6)


def test_the_rate_is_that_of_one_replica():
    assert rate_of(steady(12.0, replicas=4)).middle == pytest.approx(12.0)


def test_what_comes_before_the_first_replica_and_after_the_last_record_does_not_count():
    heard = steady(12.0)
    heard += [(heard[-1][0] + n, heard[-1][1]) for n in range(1, 60)]
    assert rate_of(heard).middle == pytest.approx(12.0)


def test_an_interval_is_that_of_students_t():
    found = Range.of_mean([9.0, 11.0, 10.0, 10.0])
    # standard error 0.40825, t(0.975, 3) = 3.18245
    assert found.middle == 10.0
    assert (found.low, found.high) == pytest.approx((10 - 1.29923, 10 + 1.29923), abs=1e-4)


def test_a_pilot_that_jumps_is_known_less_well_than_a_steady_one():
    jumpy = [(float(n), Pulse(1, 100 * (n // 10))) for n in range(101)]
    assert rate_of(jumpy).low <= 10.0 <= rate_of(jumpy).high
    uneven = [(float(n), Pulse(1, n * n)) for n in range(101)]
    assert rate_of(uneven).high - rate_of(uneven).low > 20


def test_where_nothing_was_heard_nothing_is_said():
    assert rate_of([]) is None
    assert rate_of([(0.0, Pulse()), (1.0, Pulse())]) is None
    assert rate_of([(0.0, Pulse(1, 5))]) is None


def test_ranges_are_reckoned_with_at_their_worst():
    a, b = Range(8, 10, 12), Range(1, 2, 4)
    assert a.over(b) == Range(2, 5, 12)
    assert a.over(Range(0, 1, 2)) == Range(4, 10, math.inf)
    assert a.plus(1).scaled(2) == Range(18, 22, 26)


def test_one_value_says_nothing_about_how_well_it_is_known():
    assert Range.of_mean([3.0]) == Range(0.0, 3.0, math.inf)
