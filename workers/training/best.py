"""The best weights of a run, kept beside its states until they are the result.

    OUTPUT/_best    as `workers.training.states` keeps states, the weights that learn alone

An evaluation may be made again, since a run goes on from the state before it; it is then held
against its own earlier self, and takes its place. So a run that was killed ends with the same best
as one that was not.
"""

from collections.abc import Mapping

import torch
from torch import nn

from pixellm.peers import Peers
from workers.training.evaluation import Choice, Graded, is_better
from workers.training.states import States

BEST = "_best"
"""Folder of the output."""


class Best:
    """Keeps the best weights so far.

    Args:
        states: where they are kept.
        choice: what decides.
        mark: of all that makes scores comparable; what was kept under another one is no rival.
        peers: who learns with this worker; the first writes.
    """

    def __init__(self, states: States, choice: Choice, mark: str, peers: Peers) -> None:
        self._states, self.choice, self._mark, self._peers = states, choice, mark, peers
        self.record = self._find()

    def _find(self) -> Graded | None:
        best = None
        for step, rest in self._states.notes():
            scores = rest.get("scores")
            if rest.get("mark") != self._mark or not isinstance(scores, Mapping):
                continue
            if is_better(scores, best, self.choice):
                best = Graded(step, scores)
        return best

    def offer(self, record: Graded, trained: Mapping[str, nn.Parameter]) -> None:
        """Keeps the weights if they are better; all workers must ask.

        Raises:
            StorageError: they could not be written; the ones before count.
        """
        if not is_better(record.scores, self.record, self.choice):
            return
        whole = {name: self._peers.whole(weight.detach()) for name, weight in trained.items()}
        if self._peers.rank == 0:
            rest = {"mark": self._mark, "scores": dict(record.scores)}
            self._states.save(record.step, whole, rest)
        self.record = record

    @torch.no_grad()
    def restore(self, trained: Mapping[str, nn.Parameter]) -> Graded | None:
        """Puts the best weights in the place of the present ones; all workers must ask.

        Returns:
            Their scores; None where none were kept, or they are damaged or of another run by now:
            nothing is changed then.

        Raises:
            StorageError: the store failed.
        """
        self._peers.gather(None)  # the first has written by then
        found = self._states.read(self.record.step) if self.record else None
        if found is None or found.rest.get("mark") != self._mark:
            return None
        for name, weight in trained.items():
            whole = found.tensors[name].to(weight.device)
            weight.copy_(self._peers.part_of(whole, weight))
        return self.record
