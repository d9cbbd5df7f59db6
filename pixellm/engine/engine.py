"""The engine: samples in, answers with masks out.

    sample -> picture, rows -> steps -> generations -> token groups -> masks -> answers

What is asked of it at any time joins what is under way, as soon as enough waits to be worth a step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pixellm.answers import Answer, DecodeSettings
from pixellm.checkpoints import Checkpoint
from pixellm.engine.aside import Aside
from pixellm.engine.finishing import TARGETS_AT_ONCE, Finisher
from pixellm.engine.generation import Generator, Predict
from pixellm.engine.memory import Limits, try_in_memory
from pixellm.engine.rows import Generation, Picture, Row, Sample, split_images, too_large
from pixellm.engine.schedule import SHARE
from pixellm.errors import ImageError, InstructionError, Unanswerable
from pixellm.folding import fold_projector
from pixellm.model import EncodedImages
from pixellm.prompts import prompt_ids, system_text
from pixellm.tokenizer import IMAGE_TOKEN_INDEX


@dataclass(frozen=True, slots=True, eq=False, repr=False)  # a KeyError would quote what is asked
class Job:
    """A sample on its way."""

    sample: Sample
    rows: tuple[Row, ...]
    """one for each question"""

    @property
    def done(self) -> bool:
        """Whether every question has its answer, or the reason why it gets none."""
        return all(row.settled for row in self.rows)


class Engine:
    """Answers samples with one model.

    Not thread-safe: one caller at a time. Only `prompt_ids` and `room`, which look at nothing that
    changes, may be asked from any thread.

    Args:
        checkpoint: model and tokenizer.
        settings: what decides an answer.
        limits: what may be under way at once; by default a share of the device's memory.
        predict: what says the next ids instead of the model's output layer.
        replay: pad steps to few shapes, and on a GPU record each of them once and replay it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: DecodeSettings | None = None,
        limits: Limits | None = None,
        predict: Predict | None = None,
        replay: bool = False,
    ) -> None:
        self.model, self.tokenizer = checkpoint.model, checkpoint.tokenizer
        self.settings = settings or DecodeSettings()
        if self.settings.folded_projector:
            fold_projector(self.model)
        self.system = system_text(self.model.config.system_text)
        prompt = self.prompt_ids("")
        limits = limits or Limits.of_device(self.model.device)
        prefix = prompt[: prompt.index(IMAGE_TOKEN_INDEX)]
        self.generator = Generator(
            self.model, self.tokenizer, self.settings, prefix, limits, predict, replay
        )
        self._finisher = Finisher(self.model, self.tokenizer, self.generator.encode)
        # kernels that make masks are few and small, and Python waits for them: they go first
        self._aside = Aside(self.model.device)
        self._ahead = self._aside.apart  # until memory has run out for the first time
        self._jobs: dict[Row, Job] = {}  # of every row without an answer
        self._ended: list[Row] = []  # rows whose masks are still to be made

    def answer(self, samples: Sequence[Sample]) -> list[tuple[Answer, ...]]:
        """Answers all questions of all samples.

        Returns:
            One tuple per sample, one answer per question, in order.

        Raises:
            ImageError: an image was prepared for a model of another side.
            InstructionError: a question doesn't fit into the model's positions.
            Unanswerable: one doesn't fit into memory alone, or what comes out is no number.
        """
        try:
            jobs = [self.add(sample) for sample in samples]
            while self.busy:
                self.step()
        except BaseException:
            self.abandon()  # or the next call would go on with what has failed
            raise
        return [tuple(map(_answer_of, job.rows)) for job in jobs]

    def add(self, sample: Sample) -> Job:
        """Puts all questions of a sample at the end of the line; one without questions is done.

        Raises:
            ImageError: the image was prepared for a model of another side.
            InstructionError: a question doesn't fit into the model's positions; none is asked.
        """
        self._check_side(sample)
        picture = Picture(sample.image)
        prompts = [self.prompt_ids(question) for question in sample.questions]
        budgets = [self.room(prompt) for prompt in prompts]
        rows = [self.generator.add(picture, *each) for each in zip(prompts, budgets, strict=True)]
        job = Job(sample, tuple(rows))
        self._jobs |= dict.fromkeys(rows, job)
        return job

    def _check_side(self, sample: Sample) -> None:
        side, shape = self.model.config.image_side, tuple(sample.image.pixels.shape)
        if shape != (3, side, side):
            raise ImageError(
                f"an image of the shape {shape} isn't for this model, whose images have a side of"
                f" {side} pixels: prepare_image(rgb, {side})"
            )

    @property
    def busy(self) -> bool:
        """Whether a question waits for its answer."""
        return bool(self._jobs)

    @property
    def in_step(self) -> int:
        """Questions that the newest step brought on."""
        return self.generator.in_step

    @torch.inference_mode()
    def step(self) -> list[Job]:
        """Brings everything under way one step on, and makes masks of some that ended before it.

        Returns:
            The samples whose last answer came with it.
        """
        self._aside.catch_up()
        failed = self._advance(self.generator.launch)
        ready, self._ended = self._choose_ready(self._ended)
        with self._aside.work():  # a GPU is at the step meanwhile
            self._finish([row for row in ready if row.failure is None])
        self._look_ahead()
        failed += self._advance(self._land)
        done = self._settle([*ready, *failed])
        assert self._ended or self.generator.busy or not self.busy, "somebody waits for ever"
        return done

    def _choose_ready(self, ended: Sequence[Row]) -> tuple[list[Row], list[Row]]:
        """Which ended rows are finished now, and which wait: masks together cost less."""
        targets = {row: len(row.made.groups) for row in ended}
        having = [row for row in ended if targets[row]]
        # beside a step in which questions enter, there is the most time for them
        enough = self.generator.entered > 0 or sum(targets.values()) >= TARGETS_AT_ONCE
        # not all of them: who asked them must get on, and bring the next ones
        enough = enough or len(having) >= SHARE * len(self.generator.schedule.rows)
        ready = {row for row in ended if enough or not targets[row] or row.failure}
        in_order = sorted(ready, key=lambda row: row.number)
        return in_order, [row for row in ended if row not in ready]

    def _land(self) -> None:
        self.generator.land(self._ended)

    def _advance(self, work: Callable[[], None]) -> list[Row]:
        """Half a step; a row that doesn't fit into memory alone comes back.

        Alone means that it was tried again when no other row, nor its picture, masks or slots, took
        any of the memory.
        """
        why = try_in_memory(work)
        if why is None:
            return []
        self._ahead = False
        self._let_pictures_go(but=[*self._ended, *self.generator.schedule.rows])
        self._aside.catch_up()  # the device may still read what was let go
        row = self.generator.make_way(all_free=not self._ended)
        if row is None:
            return []
        row.failure = too_large(why)
        return [row]

    def _finish(self, rows: Sequence[Row]) -> None:
        """Gives rows their answers; before one is said not to fit alone, all others make way."""
        for row in self._finisher.finish(rows):
            self._ahead = False
            self.generator.restart()
            self._let_pictures_go(but=[row])
            if why := self._finisher.finish([row]):
                row.failure = too_large(why[row])

    def _look_ahead(self) -> None:
        """Uses the time of a step on what is next."""
        # a step in which questions enter computes as fast as the device can
        if self._ahead and self.generator.in_step and not self.generator.entered:
            self._ahead = try_in_memory(self.generator.look_ahead) is None

    def _let_pictures_go(self, but: Sequence[Row]) -> None:
        """Forgets what pictures were encoded to, but those of some rows: it can be done again."""
        for picture in {row.picture for row in self._jobs} - {row.picture for row in but}:
            picture.encoded = None

    def _settle(self, rows: Sequence[Row]) -> list[Job]:
        """Lets go what answered rows need no more; returns the jobs that are done with them."""
        for row in rows:
            row.generation = None  # its states
        jobs = dict.fromkeys(self._jobs.pop(row) for row in rows)
        done = [job for job in jobs if job.done]
        for job in done:
            job.rows[0].picture.encoded = None
        return done

    @torch.inference_mode()
    def withdraw(self, job: Job) -> None:
        """Forgets a job that nobody waits for any more; all others go on."""
        gone = set(job.rows)
        self._jobs = {row: own for row, own in self._jobs.items() if row not in gone}
        self._ended = [row for row in self._ended if row not in gone]
        schedule = self.generator.schedule
        if try_in_memory(lambda: schedule.withdraw(job.rows)):
            self.generator.restart()
        if job.rows:
            job.rows[0].picture.encoded = None  # whoever keeps the job

    def abandon(self) -> None:
        """Forgets all that is under way or waits."""
        self.generator.restart()
        self.generator.schedule.clear()
        self._jobs, self._ended = {}, []

    def generate(
        self, images: EncodedImages, prompts: Sequence[Sequence[int]], image_of: Sequence[int]
    ) -> list[Generation]:
        """Greedy decoding of all prompts, about images that are encoded already; no masks.

        Args:
            images: encoded images.
            prompts: ids with one IMAGE_TOKEN_INDEX each; the part up to it is the same in all.
            image_of: the image of each prompt.

        Raises:
            InstructionError: a question doesn't fit into the model's positions.
            Unanswerable: one doesn't fit into memory alone, or what comes out is no number.
        """
        assert not self.busy, "the answers of samples would be lost"
        pictures = [Picture(encoded=each) for each in split_images(images)]
        try:
            rows = [
                self.generator.add(pictures[image], prompt, self.room(prompt))
                for image, prompt in zip(image_of, prompts, strict=True)
            ]
            while self.generator.busy:
                if failed := self._advance(self.generator.launch) + self._advance(self._land):
                    raise _describe(failed[0])
                self._ended = []  # nobody wants their masks
        except BaseException:
            self.abandon()
            raise
        for row in rows:
            if row.failure is not None:
                raise _describe(row)
        return [row.made for row in rows]

    # ---- text ----

    def prompt_ids(self, question: str) -> list[int]:
        """Ids of a question's prompt, with IMAGE_TOKEN_INDEX where the image goes."""
        return prompt_ids(self.tokenizer, question, self.system)

    def room(self, prompt: Sequence[int]) -> int:
        """New tokens that an answer to a prompt may have, whatever it is batched with.

        Raises:
            InstructionError: none fits behind the prompt.
        """
        read = len(prompt) - 1 + self.model.config.image_tokens
        room = self.model.language.model.config.max_position_embeddings - read
        if room < 1:
            raise InstructionError(
                f"an instruction of {read} positions with its image leaves no room for an "
                f"answer: shorten it by at least {1 - room} tokens"
            )
        return min(self.settings.max_new_tokens, room)


def _answer_of(row: Row) -> Answer:
    if row.answer is None:
        raise _describe(row)
    return row.answer


def _describe(row: Row) -> Unanswerable:
    assert row.failure is not None, "nothing is under way any more"
    return Unanswerable(f"a question can't be answered: {row.failure.message}")
