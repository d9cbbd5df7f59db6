r"""Scoring a run while it learns: when, with which weights, and what becomes of it.

    weights -> whole model -> every worker tries its share -> sums of all -> scores
                                                                 \-> best weights, page

An evaluation comes before the state of the same step, which remembers its scores. So whatever was
scored after the newest state is scored again when a run that was killed goes on, and nothing else.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256

import torch

from pixellm.checkpoints import Checkpoint
from pixellm.loop import Loop
from pixellm.training import TrainingBatch
from pixellm.tuning import TunedModel
from workers.errors import SettingsError
from workers.scoring.scores import score
from workers.scoring.sums import ALL, ScoreSums
from workers.storage.uris import join_uri, shown
from workers.training.batches import BatchMaker
from workers.training.best import BEST, Best
from workers.training.evaluation import Evaluation, Graded, take_reported, title
from workers.training.held_out import HeldOut, choose_rows
from workers.training.pages import PAGE_ROWS, PAGES, page_name, write_page
from workers.training.plan import TrainPlan
from workers.training.progress import Progress
from workers.training.start import Bench
from workers.training.states import States
from workers.training.trial import Trial, Tried, merge_weights

FEW = 30
"""Rows: with fewer, a score says little, and one row moves it far."""


class Validation:
    """Scores what a run has learned so far.

    Args:
        plan: of the run.
        bench: what this worker has at hand.
        held_out: the rows, at least one.
        best: keeps the best weights; None: the last ones are the result.
        history: what was scored before, in the order of the steps.
    """

    def __init__(
        self,
        plan: TrainPlan,
        bench: Bench,
        held_out: HeldOut,
        best: Best | None,
        history: list[Graded],
    ) -> None:
        self._plan, self._bench, self._held_out = plan, bench, held_out
        self._best, self._history = best, history
        self._first = {gold.row.item_id: at for at, gold in enumerate(held_out.golds[:PAGE_ROWS])}

    def is_due(self, step: int) -> bool:
        """Whether it is time, and has not been done."""
        is_time = step % self._plan.evaluate_every == 0 or step == self._plan.schedule.steps
        return is_time and all(each.step != step for each in self._history)

    def evaluate(self, tuned: TunedModel, loop: Loop[TrainingBatch]) -> Evaluation:
        """Scores the weights as they are, or their average if the loop keeps one.

        All workers must ask; each gets all scores.

        Raises:
            StorageError: a picture can't be had just now, or page or weights can't be written.
        """
        started = time.monotonic()
        with loop.averaged():
            tried = self._try(tuned)
            sums = tried.scored.groups.get(ALL, ScoreSums())
            loss = tried.loss / tried.rows if tried.rows else None
            graded = Graded(loop.step, take_reported(score(sums), loss))
            if self._best is not None:
                self._best.offer(graded, tuned.trained())
        self._history.append(graded)
        seen = Evaluation(
            step=graded.step,
            scores=graded.scores,
            questions=tried.rows,
            seconds=time.monotonic() - started,
            choice=self._plan.best,
            best=self._best.record if self._best else None,
            left_out=tried.left_out,
        )
        if self._bench.peers.rank == 0:
            self._put_page(seen, tried)
        return seen

    def finish(self, tuned: TunedModel) -> Graded | None:
        """Puts the best weights in the place of the last ones; all workers must ask.

        Returns:
            The scores of what is the result now; None where they are not known.
        """
        best = self._best.restore(tuned.trained()) if self._best else None
        if best is not None:
            told = f"{title(self._plan.best)} {best.scores[self._plan.best]:.3f}"
            self._bench.say(f"the result is what was learned up to step {best.step:,}: {told}")
            return best
        if self._best is not None:
            self._bench.say("no best weights are kept: the result is what was learned last")
        last = self._history[-1] if self._history else None
        return last if last and last.step == self._plan.schedule.steps else None

    @property
    def history(self) -> Sequence[Graded]:
        """What was scored so far, in the order of the steps."""
        return self._history

    @property
    def runs(self) -> Mapping[str, tuple[str, ...]]:
        """Prefix of a table -> the runs that its rows are read from."""
        return self._held_out.runs

    def _try(self, tuned: TunedModel) -> Tried:
        peers = self._bench.peers
        for weight in tuned.trained().values():
            weight.grad = None  # the next step makes them anew; there must be room for a model
        with _room():
            dtype = torch.bfloat16 if self._plan.precision == "bf16" else torch.float32
            model = merge_weights(tuned, peers.whole, dtype)
            checkpoint = Checkpoint(model, self._bench.checkpoint.tokenizer, "")
            trial = Trial(
                checkpoint, self._bench.store, self._plan.losses, self._plan.order, self._first
            )
            own = trial.try_images(self._held_out.images[peers.rank :: peers.world])
            del trial, checkpoint, model
        return Tried.total(peers.gather(own))

    def _put_page(self, seen: Evaluation, tried: Tried) -> None:
        rows = sorted(tried.shown, key=lambda row: self._first[row.item_id])
        page = write_page(seen, self._plan.schedule.steps, rows, self._history)
        uri = join_uri(self._plan.output, PAGES, page_name(seen.step))
        self._bench.store.put(uri, page)


def start_validation(plan: TrainPlan, bench: Bench, before: Progress | None) -> Validation | None:
    """What scores a run; None where nothing is scored, which is said.

    Args:
        plan: of the run.
        bench: what this worker has at hand.
        before: how far the run is; None at its beginning.

    Raises:
        SettingsError: --validation has no row that can be asked.
        CommitError, StorageError: a label table can't be read.
    """
    if not plan.evaluate_every:
        return None
    if not (plan.validation or plan.held_out):
        bench.say(
            "nothing is scored while it learns, and the result is what was learned last: --held-out"
            " is 0, and there is no --validation"
        )
        return None
    model, tokenizer = bench.checkpoint.model, bench.checkpoint.tokenizer
    encode = BatchMaker.for_model(model.config, tokenizer, bench.store).encode
    held_out = choose_rows(plan, bench.store, encode, before.validation if before else None)
    if not held_out.golds:
        _tell_of_none(plan, bench, held_out)
        return None
    bench.say(_describe(held_out, plan))
    history = list(before.evaluations if before else ())
    return Validation(plan, bench, held_out, _open_best(plan, bench, held_out), history)


def _open_best(plan: TrainPlan, bench: Bench, held_out: HeldOut) -> Best | None:
    if plan.best == "last":
        return None
    parts = plan.digest, bench.checkpoint.sha256, held_out.digest, plan.best
    mark = sha256("\n".join(parts).encode()).hexdigest()
    states = States(bench.store, plan.output, bench.say, BEST, kept=1)
    return Best(states, plan.best, mark, bench.peers)


def _tell_of_none(plan: TrainPlan, bench: Bench, held_out: HeldOut) -> None:
    reasons = ", ".join(f"{count:,} {why}" for why, count in sorted(held_out.skipped.items()))
    passed_over = f" (passed over: {reasons})" if reasons else ""
    if plan.validation:
        places = ", ".join(map(shown, plan.validation))
        raise SettingsError(f"--validation {places} has no row that can be asked{passed_over}")
    bench.say(
        "nothing is scored while it learns, and the result is what was learned last: no row of"
        f" --data that can be asked lies on a held-out image{passed_over}. Raise --held-out"
        f" {plan.held_out:g}, or give a table with --validation"
    )


def _describe(held_out: HeldOut, plan: TrainPlan) -> str:
    rows, images = len(held_out.golds), len(held_out.images)
    line = f"{rows:,} questions about {images:,} images are scored every {plan.evaluate_every:,}"
    line += " steps and at the end"
    if rows < FEW:
        line += "; so few that a score says little"
    reasons = ", ".join(f"{count:,} {why}" for why, count in sorted(held_out.skipped.items()))
    return f"{line}; passed over: {reasons}" if reasons else line


@contextmanager
def _room() -> Iterator[None]:
    """On a GPU, what torch keeps for later is given back: before a second model comes and after."""
    torch.cuda.empty_cache()  # without a GPU it does nothing
    yield
    torch.cuda.empty_cache()
