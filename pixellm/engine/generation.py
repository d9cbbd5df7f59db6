"""Questions in, ids out: greedy decoding with as many questions under way as memory holds.

    waiting -> enter -> launch -> land -> launch -> land -> ... -> ended

What stands before the image is read once, and a picture once for all its questions. A
question enters when others have ended, whatever picture it is about (continuous batching), with as
many others as make it worth a step. The tokens that must follow the first of a token group are read
together with it, in one step.

A step brings on all that is under way, those that enter with it, too. The language model runs once
for all of them, or, where its work is recorded, once for those that were there and once for the new
ones.

Shapes: T tokens that the language model reads, N of their states that predict an id, H width, V
vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, count

import torch
from torch import Tensor

from pixellm.answers import DecodeSettings, find_groups
from pixellm.engine.aside import Aside
from pixellm.engine.attention import NAME, StepPlan
from pixellm.engine.memory import Limits
from pixellm.engine.prefixes import TextCache, plan_prefixes
from pixellm.engine.replays import Replays, recorder_for
from pixellm.engine.rows import NO_NUMBER, Picture, Row, split_images
from pixellm.engine.schedule import Schedule
from pixellm.engine.slots import Slots
from pixellm.engine.steps import Layout, Wanted, lay_out, lay_out_entering, plan_step
from pixellm.kernel_choice import kernels_fit
from pixellm.model import PixelLM
from pixellm.tokenizer import IMAGE_TOKEN_INDEX, Tokenizer
from pixellm.transfer import send_stacked

PICTURES_AT_ONCE = 16
"""Pictures that the vision tower takes at once; what it needs of memory grows with them."""

Predict = Callable[[Tensor, Sequence[Wanted]], Tensor]
"""(N, H) states, and what they predict -> (N, V) logits."""
Begun = tuple[Layout, Tensor]
"""What is read, and (2, N) of what is said after it: ids, and their log-probabilities."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A step that was begun and has not landed."""

    layouts: Sequence[Layout]
    """of all rows under way: one, or one of those that were and one of those that enter"""
    chosen: Tensor
    """(2, N): ids, and their log-probabilities"""


class Generator:
    """Answers questions in ids.

    Args:
        model: PixelLM.
        tokenizer: of the model.
        settings: when an answer ends, and whether token groups are forced.
        prefix: ids of a prompt before the image; the same in all.
        limits: of rows and memory.
        predict: what says the next ids instead of the model's output layer.
        replay: make steps alike and replay them.
    """

    def __init__(
        self,
        model: PixelLM,
        tokenizer: Tokenizer,
        settings: DecodeSettings,
        prefix: Sequence[int],
        limits: Limits,
        predict: Predict | None = None,
        replay: bool = False,
    ) -> None:
        self._model, self._tokenizer, self._settings = model, tokenizer, settings
        self._begin = tuple(prefix)
        self._prefix = torch.tensor(prefix, dtype=torch.long, device=model.device)
        model.language.model.set_attn_implementation(NAME)
        slots = Slots(model.language, len(prefix) + model.config.image_tokens)
        self.schedule = Schedule(slots, limits)
        self._alike = replay
        self._run = Replays(
            lambda plan: plan.run(model.language), lambda: recorder_for(model.device)
        )
        self._by_kernel = kernels_fit(model.device, slots.head_width, model.dtype)
        self._aside = Aside(model.device, urgent=False)
        self._flight: Flight | None = None
        self._text = TextCache()
        self._numbers = count()
        self.in_step = 0
        """questions that the newest step brought on"""
        self.entered = 0
        """questions that came under way with it"""
        self._predict = predict or (lambda states, _: model.language.lm_head(states))

    @property
    def busy(self) -> bool:
        """Whether a question has not ended yet."""
        return self.schedule.busy

    @property
    def recorded(self) -> int:
        """What had to be recorded so far, since nothing like it had been."""
        return self._run.recorded

    def add(self, picture: Picture, prompt: Sequence[int], budget: int) -> Row:
        """Puts a question at the end of the line.

        Args:
            picture: that it is about.
            prompt: ids with one IMAGE_TOKEN_INDEX.
            budget: most new ids.
        """
        at = prompt.index(IMAGE_TOKEN_INDEX)
        assert tuple(prompt[:at]) == self._begin, "all begin alike: it is read once"
        if not self.busy:  # weights may be others by now
            self._text.stale = True
        question = prompt[at + 1 :]
        row = Row(picture, question, budget, next(self._numbers))
        self.schedule.waiting.append(row)
        return row

    @torch.inference_mode()
    def launch(self) -> None:
        """Begins a step with every question under way; a GPU is not waited for until it lands."""
        self._aside.catch_up()
        self.in_step = self.entered = 0
        # 1) where steps are made alike, those under way go on first: a GPU is at them from now on.
        # On a CPU the shipped model took a tenth longer so (by hand): its weights are read twice
        begun = self._say_next() if self._alike else []
        # 2) questions that wait take the places of those that have ended
        before = len(self.schedule.rows)
        self._read_pictures(self.schedule.enter())
        self.entered = len(self.schedule.rows) - before
        # 3) they read all they were asked, others what they said last, and say the next word
        begun += self._read_questions() if self._alike else self._say_next()
        if begun:
            layouts, chosen = zip(*begun, strict=True)
            self._flight = Flight(layouts, torch.cat(chosen, dim=1))
        self.in_step = len(self.schedule.rows)

    @torch.inference_mode()
    def land(self, ended: list[Row]) -> None:
        """Ends the step that was begun, if one was.

        Args:
            ended: takes the questions that ended with it, before their slots go to others: where
                memory runs out over that, they have ended all the same.
        """
        flight, self._flight = self._flight, None
        if flight is None:
            return
        self._hear(flight)
        rows = self.schedule.rows
        for layout in flight.layouts:
            for row, read in zip(layout.rows, layout.read, strict=True):
                row.read = read
        leaving = [at for at, row in enumerate(rows) if row.ended]
        ended += self._end(leaving)
        self.schedule.leave([rows[at] for at in leaving])

    def restart(self) -> None:
        """Sends all back to wait and lets the memory go; a step that was begun is forgotten."""
        self._forget()
        self.schedule.restart()

    def make_way(self, all_free: bool) -> Row | None:
        """After memory has run out; see `Schedule.make_way`."""
        self._forget()
        return self.schedule.make_way(all_free)

    def _forget(self) -> None:
        self._flight = None
        self._text = TextCache()  # with its memory; recordings that read it go, too
        self._run.forget()

    # ---- pictures ----

    def _read_pictures(self, pictures: Sequence[Picture]) -> None:
        """Reads new pictures into their slots, behind the text that stands before every image."""
        if not pictures:
            return
        self._aside.join()
        if self._text.stale:
            self._read_text()
        for start in range(0, len(pictures), PICTURES_AT_ONCE):
            chunk = pictures[start : start + PICTURES_AT_ONCE]
            self.encode([picture for picture in chunk if picture.encoded is None])
            self._read_prefixes(chunk)

    def encode(self, pictures: Sequence[Picture]) -> None:
        """Looks at pictures, if only to make masks: the language model reads nothing."""
        images = [picture.image for picture in pictures if picture.image is not None]
        if images:
            pixels = send_stacked([image.pixels for image in images], self._model.device)
            encoded = self._model.encode_images(pixels, [image.resized for image in images])
            for picture, own in zip(pictures, split_images(encoded), strict=True):
                picture.encoded = own.clone()  # or each would hold what all are views of

    def look_ahead(self) -> None:
        """Looks at the pictures that will enter next, beside this step and those that follow."""
        # more than are read at once: as many may enter with a step, and some more
        awaited = self.schedule.awaited(2 * PICTURES_AT_ONCE)
        new = [picture for picture in awaited if picture.encoded is None]
        if 2 * len(new) >= len(awaited):  # fewer would take Python as long
            with self._aside.begin():
                self.encode(new[:PICTURES_AT_ONCE])

    def _read_prefixes(self, pictures: Sequence[Picture]) -> None:
        self._run(plan_prefixes(pictures, self.schedule.slots, self._text, self._alike))

    def _read_text(self) -> None:
        """Keys and values of the words before the image."""
        words = self._model.language.embed(self._prefix[None])
        valid = words.new_ones(words.shape[:2])
        self._model.language(words, valid, self._text, keys_only=True)
        self._text.stale = False

    # ---- words ----

    def _say_next(self) -> list[Begun]:
        """Begins what all rows under way read next."""
        if not self.schedule.rows:
            return []
        layout = lay_out(self.schedule.rows, self._alike)
        while not self.schedule.make_room(layout.length):  # some had to go back to wait
            layout = lay_out(self.schedule.rows, self._alike)
        return [self._begin_reading(layout)]

    def _read_questions(self) -> list[Begun]:
        """Begins what rows that have entered read."""
        if not self.entered:
            return []
        rows, room = self.schedule.rows, self.schedule.slots.length
        return [self._begin_reading(lay_out_entering(rows, self.entered, room))]

    def _begin_reading(self, layout: Layout) -> Begun:
        slots = self.schedule.slots
        plan = plan_step(layout, slots, self.schedule.rows, self._by_kernel)
        states = self._run(plan)
        slots.write_states(plan.owners, plan.places, states)
        return layout, self._choose(states, plan, layout.wanted)

    def _choose(self, states: Tensor, plan: StepPlan, wanted: Sequence[Wanted]) -> Tensor:
        """(2, N): the likeliest next id of every row, or the one that had to come; its logprob."""
        logits = self._predict(states[plan.wanted], wanted).float()  # (N, V)
        ids = torch.where(plan.given < 0, logits.argmax(-1), plan.given)
        logprobs = logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(-1)
        return torch.stack([ids.float(), logprobs])  # together: a GPU is waited for once

    def _hear(self, flight: Flight) -> None:
        """What rows have said."""
        wanted = chain.from_iterable(layout.wanted for layout in flight.layouts)
        for each, id_, logprob in zip(wanted, *flight.chosen.tolist(), strict=True):
            each.row.logprobs.append(logprob)
            if each.given < 0:
                self._say(each.row, int(id_))
            if math.isnan(logprob):  # nothing good comes behind it
                each.row.over = True

    def _say(self, row: Row, id_: int) -> None:
        row.ids.append(id_)
        group, settings = self._tokenizer.seg_ids, self._settings
        if settings.forced_groups and not settings.official_groups and id_ == group[0]:
            # what follows is certain
            row.ids += group[1 : 1 + row.budget - len(row.ids)]
        row.over = id_ == self._tokenizer.eos_id or len(row.ids) == row.budget

    def _end(self, ended: Sequence[int]) -> list[Row]:
        rows = [self.schedule.rows[at] for at in ended]
        for at, row in zip(ended, rows, strict=True):
            groups = find_groups(row.ids, self._tokenizer.seg_ids, self._settings.official_groups)
            row.end(self.schedule.slots.states[at], *groups)
            if any(map(math.isnan, row.logprobs)):
                row.failure = NO_NUMBER
        return rows
