import pytest

from workers.errors import CommitError
from workers.spread import spreading


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")  # Ray warns of its own settings
def test_results_come_in_the_order_of_the_items_and_errors_as_they_were_raised(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def work(item: int, shared: list[int]) -> int:  # local, so that it travels whole
        if item == 30:
            raise CommitError("the part 'x' is damaged")
        return item // (40 - item) + sum(shared)

    with spreading(str) as spread:
        expected = [item // (40 - item) + 3 for item in range(30)]
        assert list(spread(work, range(30), [1, 2])) == expected
        assert list(spread(work, [], [])) == []
        with pytest.raises(CommitError) as caught:
            list(spread(work, range(40), []))
        assert f"{caught.value}" == "the part 'x' is damaged"
        with pytest.raises(ZeroDivisionError):  # a bug stays what it is
            list(spread(work, [40], []))
