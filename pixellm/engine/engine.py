"""The engine: samples in, answers with masks out.

    sample -> picture, rows -> steps -> generations -> token groups -> masks -> answers

What is asked of it at any time joins what is under way already.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pixellm.answers import Answer, DecodeSettings
from pixellm.checkpoints import Checkpoint
from pixellm.engine.finishing import TARGETS_AT_ONCE, Finisher
from pixellm.engine.generation import Generator, Predict
from pixellm.engine.rows import Generation, Picture, Row, Sample, split_images
from pixellm.engine.schedule import Limits
from pixellm.errors import InstructionError
from pixellm.model import EncodedImages
from pixellm.prompts import SYSTEM_TEXT, prompt_ids
from pixellm.tokenizer import IMAGE_TOKEN_INDEX


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A sample on its way."""

    sample: Sample
    rows: tuple[Row, ...]
    """one for each question"""

    @property
    def done(self) -> bool:
        """Whether every question has its answer."""
        return all(row.answer is not None for row in self.rows)


class Engine:
    """Answers samples with one model. Not thread-safe: one caller at a time.

    Args:
        checkpoint: model and tokenizer.
        settings: what decides an answer.
        limits: what may be under way at once.
        predict: what says the next ids instead of the model's output layer.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: DecodeSettings | None = None,
        limits: Limits | None = None,
        predict: Predict | None = None,
    ) -> None:
        self.model, self.tokenizer = checkpoint.model, checkpoint.tokenizer
        self.settings = settings or DecodeSettings()
        official = self.model.config.system_text
        self.system = SYSTEM_TEXT if official is None else official
        prompt = self.prompt_ids("")
        prefix = prompt[: prompt.index(IMAGE_TOKEN_INDEX)]
        self.generator = Generator(
            self.model, self.tokenizer, self.settings, prefix, limits or Limits(), predict
        )
        self._finisher = Finisher(self.model, self.tokenizer, self.settings)
        self._jobs: dict[int, Job] = {}  # of every row without an answer, by the row's id()
        self._ended: list[Row] = []  # rows whose masks are still to be made

    def answer(self, samples: Sequence[Sample]) -> list[tuple[Answer, ...]]:
        """Answers all questions of all samples.

        Returns:
            One tuple per sample, one answer per question, in order.

        Raises:
            InstructionError: a question doesn't fit into the model's positions.
            RuntimeError, MemoryError: a question doesn't fit into memory, not even alone.
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
        """Puts all questions of a sample at the end of the line.

        Raises:
            InstructionError: a question doesn't fit into the model's positions; none is asked.
        """
        picture = Picture(sample.image)
        prompts = [self.prompt_ids(question) for question in sample.questions]
        budgets = [self.room(prompt) for prompt in prompts]
        rows = [self.generator.add(picture, *each) for each in zip(prompts, budgets, strict=True)]
        job = Job(sample, tuple(rows))
        self._jobs |= {id(row): job for row in rows}
        return job

    @property
    def busy(self) -> bool:
        """Whether a question has no answer yet."""
        return bool(self._jobs)

    @torch.inference_mode()
    def step(self) -> list[Job]:
        """Brings everything under way one step on.

        Returns:
            The samples whose last answer came with it.
        """
        try:
            self._ended += self.generator.step()
        except (RuntimeError, MemoryError) as error:
            # a row that does not fit alone is the caller's matter; else half as many go on
            if not is_out_of_memory(error) or self.generator.make_way() is not None:
                raise
        targets = sum(self._finisher.count_targets(row) for row in self._ended)
        if targets < TARGETS_AT_ONCE and self.generator.busy:
            return []  # the masks of more answers together cost less
        # in the order of the questions: masks of one image come together
        ended, self._ended = sorted(self._ended, key=lambda row: row.number), []
        self._finisher.finish(ended)
        for row in ended:
            row.generation = None  # its states are needed no more
        jobs = {id(job): job for job in (self._jobs.pop(id(row)) for row in ended)}
        done = [job for job in jobs.values() if job.done]
        for job in done:
            job.rows[0].picture.encoded = None
        return done

    def abandon(self) -> None:
        """Forgets all that is under way or waits."""
        self.generator.schedule.restart()
        self.generator.schedule.waiting.clear()
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
        """
        assert not self.busy, "the answers of samples would be lost"
        pictures = [Picture(encoded=each) for each in split_images(images)]
        rows = [
            self.generator.add(pictures[image], prompt, self.room(prompt))
            for prompt, image in zip(prompts, image_of, strict=True)
        ]
        try:
            while self.generator.busy:
                self.generator.step()
        except BaseException:
            self.abandon()
            raise
        made = [row.generation for row in rows if row.generation is not None]
        assert len(made) == len(rows), "all have ended"
        return made

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
        room = int(self.model.config.llama.get("max_position_embeddings", 2048)) - read
        if room < 1:
            raise InstructionError(
                f"an instruction of {read} positions with its image leaves no room for an "
                f"answer: shorten it by at least {1 - room} tokens"
            )
        return min(self.settings.max_new_tokens, room)


def is_out_of_memory(error: Exception) -> bool:
    """Whether it is memory that was wanting, of a GPU or of the machine."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "allocate memory" in f"{error}"  # how torch says it of a CPU's


def _answer_of(row: Row) -> Answer:
    assert row.answer is not None, "nothing is under way any more"
    return row.answer
