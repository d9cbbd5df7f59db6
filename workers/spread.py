"""Work on Ray: one function, many items, and the results in order.

For work that can be done again: when a process or a machine is lost, Ray gives its item to another.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from pixellm.errors import PixelLMError
from workers.cluster import connected, list_machines
from workers.errors import LineError
from workers.scoring.evaluation import Spread
from workers.wording import Say

AHEAD = 2
"""Tasks for each processor that Ray knows of at once; a longer queue makes nothing faster."""

Item = TypeVar("Item")
Shared = TypeVar("Shared")
Result = TypeVar("Result")


class RaySpread(Spread):
    """Carries work to the processors of the Ray that this process is connected to."""

    def __call__(
        self, work: Callable[[Item, Shared], Result], items: Sequence[Item], shared: Shared
    ) -> Iterator[Result]:
        """Does it on each item; the results come in the order of the items.

        Args:
            work: runs in other processes: a function of a module.
            items: small; each is sent with its task.
            shared: is sent once to each machine.

        Raises:
            PixelLMError: what the work raised of ours.
            LineError: Ray gave up.
        """
        known, task = ray.put(shared), ray.remote(num_cpus=1)(work)
        most = AHEAD * max(1, int(sum(machine.cpus for machine in list_machines())))
        under_way: deque[ray.ObjectRef[Result]] = deque()
        for item in items:
            under_way.append(task.remote(item, known))
            if len(under_way) >= most:
                yield _fetch(under_way.popleft())
        while under_way:
            yield _fetch(under_way.popleft())


@contextmanager
def spreading(say: Say) -> Iterator[RaySpread]:
    """The way to the cluster that RAY_ADDRESS names, or to a Ray of our own on this machine."""
    with connected(say):
        yield RaySpread()


def _fetch(reference: "ray.ObjectRef[Result]") -> Result:
    try:
        result: Result = ray.get(reference)
        return result
    except RayTaskError as error:
        if isinstance(error.cause, PixelLMError):
            raise error.cause from None
        raise  # a bug of ours, with the traceback from where it happened
    except RayError as error:
        raise LineError(f"Ray gave up: {error}") from error
