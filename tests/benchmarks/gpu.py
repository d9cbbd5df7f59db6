"""The part `gpu`: how near the engine comes to what a GPU can do, at the size of PixelLM-7B.

    python -m tests.benchmarks gpu --output results                      some cases, 9 minutes
    python -m tests.benchmarks gpu --models muse/1/128,long/4/64         these
    python -m tests.benchmarks gpu --models full                         all, as long as it takes

Set OMP_NUM_THREADS=1: Ray gives a replica as many threads as processors, which is one.

Weights are random, in bf16 and made on the GPU; answers are given (`answer_lengths`), the engine is
under steady load (`load`), and what it does is set against measured ceilings (`ceilings`,
`roofline`). A case is `kind/instructions per image/most questions under way`,
with `/replay` behind it where the engine records its steps and replays them.

Without a GPU, or with --toy, everything runs at toy size, and no number means anything.
"""

import gc
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from unittest.mock import patch

import torch

from pixellm.answers import DecodeSettings
from pixellm.checkpoints import Checkpoint
from pixellm.config import PixelLMConfig
from pixellm.engine.engine import Engine
from pixellm.engine.memory import Limits, is_out_of_memory
from pixellm.errors import Unanswerable
from pixellm.images import PreparedImage
from pixellm.prompts import prompt_ids
from pixellm.tiny import tiny_checkpoint
from pixellm.tokenizer import IMAGE_TOKEN_INDEX, Tokenizer
from tests.benchmarks import gpu_tables
from tests.benchmarks.answer_lengths import (
    Asked,
    Forced,
    Shapes,
    ask,
    make_exact_text,
    make_images,
    make_questions,
)
from tests.benchmarks.ceilings import (
    Ceilings,
    Clock,
    describe,
    find_device,
    forget_peak,
    measure_ceilings,
    out_of_memory_errors,
    peak_bytes,
    reserved_bytes,
)
from tests.benchmarks.flops import PREFIX, QUESTION, Costs, count_pixellm, meta_model
from tests.benchmarks.gpu_cases import MAIN, TOY_MAIN, Case, choose_cases
from tests.benchmarks.gpu_tables import Outcome, Yardstick
from tests.benchmarks.inputs import (
    PHOTO,
    TOY_PHOTO,
    WORDS,
    make_tokenizer,
)
from tests.benchmarks.load import Feed, Pace, Watch, Window, WrongAnswerError, measure
from tests.benchmarks.options import Options
from tests.benchmarks.profiling import count_waiting, take_profile
from tests.benchmarks.random_weights import language_bytes, random_checkpoint
from tests.benchmarks.report import Table
from tests.benchmarks.roofline import Sizes, token_bytes
from tests.benchmarks.sizes import released_config
from tests.benchmarks.timing import say

SECONDS, TOY_SECONDS = 40.0, 0.3
"""For all windows of a case, at most; those of few rows take longer, as an answer does."""
WARM_UP, TOY_WARM_UP = 4.0, 0.15
"""Seconds before a case is measured, at most."""
RECORDING = 30.0
"""As much more, where steps are recorded."""
TIME = 400.0
"""Seconds after which no case of the choice begins: all ends within ten minutes."""
QUESTIONS, TOY_QUESTIONS = 256, 16
"""Different ones of a case; they come round again."""
TOY_QUESTION = 30
"""Ids of a question to the toy."""
FILE, PROFILE_FILE = "gpu.jsonl", "gpu_profile{}.txt"


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """A model on its device, and all that cases share."""

    title: str
    checkpoint: Checkpoint
    device: torch.device
    images: Sequence[PreparedImage]
    shapes: Shapes
    texts: Sequence[str]
    """questions"""
    yardstick: Yardstick

    def asked(self, case: Case) -> Asked:
        """What a case is about."""
        return ask(
            case.kind,
            case.instructions,
            images=self.images,
            texts=self.texts,
            tokenizer=self.checkpoint.tokenizer,
        )


def run(options: Options) -> Iterator[Table]:
    """Ceilings; a table for each kind of answer and number of instructions; where the time goes."""
    begin, device = time.monotonic(), find_device()
    toy = options.toy or device.type == "cpu"
    cases = choose_cases(options.models, toy=toy)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    say(f"gpu: ceilings of {describe(device)['device']}")
    forget_peak(device)
    found = describe(device)  # before the ceilings take memory of their own
    ceilings = measure_ceilings(device, dtype, toy=toy)
    yield gpu_tables.ceilings_table(found, ceilings, dtype)

    setup = set_up(device, dtype, ceilings, toy=toy)
    until = begin + (float("inf") if options.models else TIME)
    main, measured = TOY_MAIN if toy else MAIN, set[Case]()
    for _, group in groupby(cases, key=lambda case: (case.kind, case.instructions)):
        outcomes = list[Outcome]()
        for case in group:
            pace = pace_of(case, options.repetitions, toy=toy)
            outcomes.append(run_case(setup, case, pace, until))
            _note(options.output, setup, outcomes[-1])
        measured |= {each.case for each in outcomes if each.windows}
        yield gpu_tables.cases_table(setup.title, outcomes, setup.yardstick)
        yield gpu_tables.shares_table(setup.title, outcomes)
    for case in (main, replace(main, replay=True)):
        if case in measured:
            yield from look_inside(setup, case, options.output)


# ---- the model ----


def set_up(device: torch.device, dtype: torch.dtype, ceilings: Ceilings, *, toy: bool) -> Setup:
    """Makes the model where it will run, and counts what its answers cost."""
    tokenizer = make_tokenizer()
    config = toy_config() if toy else seven_billion(tokenizer)
    start, clock = time.perf_counter(), Clock(device)
    checkpoint = random_checkpoint(config, tokenizer, dtype=dtype, device=device)
    clock.wait()
    weights = sum(weight.nbytes for weight in checkpoint.model.state_dict().values())
    took = time.perf_counter() - start
    say(f"gpu: {weights / 1e9:.2f} GB of weights made on {device} in {took:.1f} s")
    system = config.system_text or ""
    prompt = prompt_ids(tokenizer, "", system)
    prefix = prompt.index(IMAGE_TOKEN_INDEX) + config.image_tokens
    length = TOY_QUESTION if toy else QUESTION
    images = make_images(config, TOY_PHOTO if toy else PHOTO)
    sizes = Sizes(language_bytes(checkpoint.model), token_bytes(config, dtype.itemsize), prefix)
    return Setup(
        title=f"{'a toy' if toy else 'PixelLM-7B'}, {str(dtype).removeprefix('torch.')}",
        checkpoint=checkpoint,
        device=device,
        images=images,
        shapes=Shapes(config, images[0], checkpoint.model.language.lm_head.weight),
        texts=make_questions(tokenizer, system, length, TOY_QUESTIONS if toy else QUESTIONS),
        yardstick=Yardstick(ceilings, count_costs(config, prefix, length), sizes, toy),
    )


def seven_billion(tokenizer: Tokenizer) -> PixelLMConfig:
    """The released sizes, with a system text for which 300 positions come before the question.

    The tokenizer is a small one: its ids are a few of the model's 32,008, all of which the output
    layer tells apart.
    """
    config, word = released_config(), WORDS[0]
    around = prompt_ids(tokenizer, "", word).index(IMAGE_TOKEN_INDEX)
    around -= len(tokenizer.encode(word, bos=False))
    text = make_exact_text(tokenizer, PREFIX - config.image_tokens - around)
    return replace(config, system_text=text)


def toy_config() -> PixelLMConfig:
    """The tiny model, with room for long answers."""
    return tiny_checkpoint(0, max_positions=1024).model.config


def count_costs(config: PixelLMConfig, prefix: int, length: int) -> Costs:
    """Operations of every stage."""
    return count_pixellm(meta_model(config), prefix, length)


# ---- cases ----


def pace_of(case: Case, windows: int, *, toy: bool) -> Pace:
    """How long a case is measured."""
    if toy:
        return Pace(windows, TOY_SECONDS, TOY_WARM_UP)
    return Pace(windows, SECONDS, WARM_UP + RECORDING * case.replay)


def run_case(setup: Setup, case: Case, pace: Pace, until: float) -> Outcome:
    """Measures a case; whatever goes wrong with memory is said in its outcome.

    Args:
        setup: the model.
        case: that is measured.
        pace: how long.
        until: of the monotonic clock: it does not begin later.
    """
    if time.monotonic() > until:
        return Outcome(case, (), 0, 0, 0, "not run: the time was up")
    forget_peak(setup.device)
    before, trouble, wrong = out_of_memory_errors(setup.device), "", ""
    windows: Sequence[Window] = ()
    try:
        with _engine(setup, case) as (feed, forced, watch):
            windows = measure(feed, forced, watch, pace, case.rows)
    except Unanswerable as error:
        trouble = f"{error}"
    except WrongAnswerError as error:
        trouble = wrong = f"{error}"
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        trouble = f"out of memory: {error}"
    again = out_of_memory_errors(setup.device) - before
    if again and not trouble:
        trouble = f"memory ran out {again} times, and the engine went on with fewer rows"
    memory = peak_bytes(setup.device), reserved_bytes(setup.device)
    outcome = Outcome(case, tuple(windows), *memory, again, trouble, wrong)
    say(f"gpu: {gpu_tables.summary(outcome)}")
    return outcome


@contextmanager
def _engine(setup: Setup, case: Case) -> Iterator[tuple[Feed, Forced, Watch]]:
    """An engine that has all to itself, and gives all back."""
    model = setup.checkpoint.model
    asked = setup.asked(case)
    forced = Forced(model.language.lm_head, asked.scripts)
    limits = Limits.of_device(setup.device, rows=case.rows)  # memory as in production
    engine = Engine(setup.checkpoint, DecodeSettings(), limits, forced, replay=case.replay)
    feed = Feed(engine, asked, backlog=case.rows if case.rows > 1 else 0)
    try:
        with patch.object(model, "decode", setup.shapes.instead(model.decode)):
            yield feed, forced, Watch(engine, Clock(setup.device), setup.yardstick.sizes)
    finally:
        engine.abandon()
        gc.collect()


def _note(folder: Path | None, setup: Setup, outcome: Outcome) -> None:
    """Adds a case to a file at once: a run that is cut off keeps what it has."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"model": setup.title, **asdict(outcome)})
        with (folder / FILE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


# ---- the main case, from inside ----


def look_inside(setup: Setup, case: Case, folder: Path | None) -> Iterator[Table]:
    """What waits for the GPU, and the profile: also as text, in the folder of the results."""
    clock, warm_up = Clock(setup.device), pace_of(case, 0, toy=setup.yardstick.toy)
    forget_peak(setup.device)
    with _engine(setup, case) as (feed, forced, watch):
        measure(feed, forced, watch, warm_up, case.rows)
        yield gpu_tables.waiting_table(setup.title, case, count_waiting(feed, clock))
        profile = take_profile(feed, clock)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        name = PROFILE_FILE.format("_replay" * case.replay)
        (folder / name).write_text(profile.text, encoding="utf-8")
    yield gpu_tables.profile_table(setup.title, case, profile)
