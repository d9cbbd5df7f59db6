"""What a training run can be told: flags only, so that a forgotten variable can't change it."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import TypeAliasType

from pixellm.learners import Linear, Tuning
from pixellm.loop import RateShape, Schedule
from pixellm.losses import LossWeights
from workers.settings import SHIPPED_MODEL
from workers.settings_places import Place, read_place
from workers.settings_sources import FlagSettings
from workers.training.evaluation import Choice
from workers.training.examples import TrainOn
from workers.training.ordering import Order
from workers.training.parallel import ParallelKind
from workers.training.plan import PAPER_LOSSES, DataSet, Precision, Result, TrainPlan
from workers.training.views import ViewKind, Views


def _data(text: str) -> str:
    """A place, and behind a colon its weight."""
    read_data(text)
    return text


def read_data(text: str) -> DataSet:
    """`PREFIX` or `PREFIX:WEIGHT`.

    Raises:
        ValueError: the prefix is no place, or the weight is not above 0.
    """
    prefix, colon, number = text.rpartition(":")
    try:
        weight = float(number) if colon and prefix else None
    except ValueError:  # the colon of s3://
        weight = None
    if weight is None:
        return DataSet(read_place(text))
    if not 0 < weight < float("inf"):
        raise ValueError(f"the weight of {prefix!r} must be above 0, not {number!r}")
    return DataSet(read_place(prefix), weight)


# What `--help` writes behind a flag, in the place of its type.
TABLES = TypeAliasType("TABLES", tuple[Annotated[str, AfterValidator(_data)], ...])
LAYERS = TypeAliasType("LAYERS", tuple[Linear, ...])
PLACES = TypeAliasType("PLACES", tuple[Place, ...])


class TrainSettings(FlagSettings):
    """Fine-tunes a PixelLM on label tables, such as those that jobs/convert.py made.

    python jobs/train.py --data gold --data labels:0.5 --output tuned

    The result, OUTPUT/model, is what jobs/label.py takes as --model; with --result adapter it is
    OUTPUT/adapter, which goes with the model that learned. A second start of the same command goes
    on from the newest state, wherever the first one was ended.

    The small model of drawn scenes is trained from nothing: --recipe drawn --help lists its flags.
    """

    data: TABLES
    """label tables to learn from, each a prefix, or prefix:weight with the weight with which its
    rows are drawn (1 where nothing is said); several with commas, or the flag again"""
    output: Place
    """folder or s3://bucket/prefix for states, metrics and the result"""
    model: Place = SHIPPED_MODEL
    """the model that learns: a folder, or one in a bucket; without it, the small model that comes
    with the project, which knows drawn scenes only"""
    result: Result = "merged"
    """merged: a whole model, in OUTPUT/model; adapter: what was learned and no more, in
    OUTPUT/adapter, as PEFT writes it, for jobs/label.py --model MODEL --adapter OUTPUT/adapter"""
    steps: int = Field(default=Schedule().steps, ge=1)
    """how often the weights are changed"""
    rate: float = Field(default=Schedule().rate, gt=0)
    """highest learning rate"""
    warm_up: int = Field(default=Schedule().warm_up, ge=0)
    """steps in which the rate rises from 0"""
    shape: RateShape = "linear"
    """how the rate falls after that, to its floor at the last step"""
    floor: float = Field(default=Schedule().floor, ge=0, le=1)
    """share of the highest rate that is left at the last step"""
    beta1: float = Field(default=Schedule().betas[0], ge=0, lt=1)
    """how slowly AdamW forgets gradients"""
    beta2: float = Field(default=Schedule().betas[1], ge=0, lt=1)
    """how slowly it forgets their squares"""
    decay: float = Field(default=0.0, ge=0)
    """AdamW's weight decay"""
    clip: float = Field(default=1.0, gt=0)
    """largest norm of a gradient; longer ones are shortened"""
    batch: int = Field(default=2, ge=1)
    """rows that each worker learns from at once"""
    accumulate: int = Field(default=10, ge=1)
    """batches of each worker that make up a step"""
    rank: int = Field(default=Tuning().rank, ge=0)
    """of LoRA in the language model; 0: no LoRA"""
    alpha: int = Field(default=Tuning().alpha, ge=1)
    """LoRA's steps are multiplied by alpha over rank"""
    dropout: float = Field(default=Tuning().dropout, ge=0, lt=1)
    """of what LoRA reads"""
    lora_targets: LAYERS = Tuning().targets
    """linear layers of the language model that LoRA stands beside, with commas: q, k, v, o, gate,
    up and down"""
    light: bool = True
    """learn embeddings, output layer, projectors, codebook and pixel decoder whole"""
    neck: bool = False
    """of the pixel decoder, learn the neck too, which the released weights left at their start"""
    full: bool = False
    """learn everything, without LoRA"""
    words: float = Field(default=PAPER_LOSSES.ce, ge=0)
    """weight of the words' loss"""
    bce: float = Field(default=PAPER_LOSSES.bce, ge=0)
    """weight of the masks' binary cross-entropy"""
    dice: float = Field(default=PAPER_LOSSES.dice, ge=0)
    """weight of the masks' Dice loss"""
    refinement: float = Field(default=PAPER_LOSSES.refinement, ge=0)
    """weight of the target refinement loss, where masks of a question overlap; 0 as in the
    released code"""
    views: ViewKind = "plain"
    """how pictures are seen, so that few of them teach more: as they are; half of them mirrored,
    left for right; or turned by quarters, too, for pictures without up and down. Where question or
    answer speak of a direction (in English), the picture stays as it is"""
    jitter: float = Field(default=0.0, ge=0, lt=1)
    """by how much contrast and brightness of pictures are changed, at most; 0.2 is little"""
    zoom: float = Field(default=1.0, ge=1, le=16)
    """how much larger things are seen at most: with 2, windows of a half to all of each side, which
    show at least half of every mask of the answer. The whole picture is seen where none of eight
    does, and where question or answer have a word that compares or names a place ("the largest",
    "in the middle"; a list of English ones)"""
    order: Order = "left-to-right"
    """of masks that no word of their answer tells apart ("They are [SEG] and [SEG]."): told another
    order each time, a model learns the mean of all"""
    held_out: float = Field(default=0.2, ge=0, lt=1)
    """share of the images that is not learned from, the same ones for ever, for scores that mean
    something"""
    min_score: float = Field(default=0.0, ge=0, le=1)
    """rows with a mask of a lower score are passed over"""
    people_only: bool = False
    """learn only rows that people made, accepted or corrected, not what only a model said"""
    precision: Precision = "fp32"
    """of the arithmetic; weights that learn are fp32"""
    recompute: bool = False
    """compute the language model's layers again for their gradients: less memory, more time"""
    save_every: int = Field(default=500, ge=1)
    """steps between two states, from which a run that was killed goes on"""
    evaluate_every: int = Field(default=500, ge=0)
    """steps between two evaluations, in which questions about held-out images are asked and scored
    and a page of samples is written; there is one at the end, too. 0: none at all"""
    evaluate_rows: int = Field(default=200, ge=1)
    """questions of an evaluation, the same ones each time"""
    validation: PLACES = ()
    """label tables to take them from, whole, instead of the held-out images of --data; several with
    commas, or the flag again. With --held-out 0, all of --data is learned"""
    best: Choice = "giou"
    """the score by which the weights of the result are chosen; last: the last ones are it"""
    tensorboard: Path | None = None
    """folder for TensorBoard's files, on the machine of the first worker; needs the package
    tensorboard"""
    seed: int = Field(default=0, ge=0)
    """of all that is left to chance"""
    num_workers: int = Field(default=1, ge=0)
    """processes that learn together on Ray, each with a GPU where there are any: on the cluster
    that RAY_ADDRESS names, as in a job, else on this machine. 0: this process, without Ray"""
    parallel: ParallelKind = "ddp"
    """what several workers hold: each the whole model (ddp), or each a part of all weights, for
    models that are too large for one GPU (fsdp)"""
    cpus: int | None = Field(default=None, ge=1)
    """processors of a worker; without it, its share of this machine, or one of a cluster"""
    model_cache: Path = Path("~/.cache/pixellm")
    """folder for models of buckets"""
    model_cache_gib: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """most that models and adapters from buckets may take of that folder, in GiB, as for
    jobs/label.py; without it, as much as the disk holds"""

    @model_validator(mode="after")
    def _refuse_to_learn_nothing(self) -> Self:
        if not (self.rank or self.light or self.neck or self.full):
            raise ValueError("--rank 0 with --no-light: nothing would learn")
        return self

    @model_validator(mode="after")
    def _refuse_an_adapter_without_lora(self) -> Self:
        if self.result == "adapter" and (self.full or not self.rank):
            how = "--full" if self.full else "--rank 0"
            raise ValueError(
                f"--result adapter with {how}: an adapter is what LoRA has learned, and there is no"
                " LoRA then; leave out one of the two"
            )
        return self

    @property
    def plan(self) -> TrainPlan:
        """The same in the words of `workers.training`."""
        return TrainPlan(
            model=self.model,
            data=tuple(map(read_data, self.data)),
            output=self.output,
            schedule=Schedule(
                steps=self.steps,
                rate=self.rate,
                warm_up=self.warm_up,
                shape=self.shape,
                floor=self.floor,
                betas=(self.beta1, self.beta2),
                decay=self.decay,
                clip=self.clip,
                seed=self.seed,
            ),
            tuning=Tuning(
                rank=self.rank,
                alpha=self.alpha,
                dropout=self.dropout,
                targets=self.lora_targets,
                light=self.light,
                neck=self.neck,
                full=self.full,
            ),
            losses=LossWeights(self.words, self.bce, self.dice, self.refinement),
            train_on=TrainOn(checked_only=self.people_only, min_score=self.min_score),
            views=Views(self.views, self.jitter, self.zoom, self.seed),
            order=self.order,
            per_worker=self.batch,
            accumulate=self.accumulate,
            held_out=self.held_out,
            precision=self.precision,
            parallel=self.parallel,
            recompute=self.recompute,
            save_every=self.save_every,
            evaluate_every=self.evaluate_every,
            evaluate_rows=self.evaluate_rows,
            validation=self.validation,
            best=self.best,
            tensorboard=str(self.tensorboard.expanduser().absolute()) if self.tensorboard else None,
            result=self.result,
        )
