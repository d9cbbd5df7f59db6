"""What answers need at least: operations, bytes, and the time that a device's ceilings leave.

Operations are those of the part `flops`, padding and whatever is done twice not counted. Bytes are
those of a step of the engine: the language model's weights once, the keys and values of every row
under way, and those of every picture's prefix once, however many rows read it. Where questions that
enter are read apart, the weights are read twice, and counted once.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pixellm.config import PixelLMConfig
from tests.benchmarks.ceilings import Ceilings
from tests.benchmarks.flops import Costs


@dataclass(frozen=True, slots=True)
class Answered:
    """A question that has its answer."""

    ids: int
    targets: int
    runs: int
    """of all its masks"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What lies in memory, in bytes."""

    weights: int
    """that every step reads"""
    token: int
    """keys and values of a token, all layers"""
    prefix: int
    """positions before the question"""

    def must_read(self, rows: Iterable[int], pictures: int) -> int:
        """Bytes that a step reads at least.

        Args:
            rows: tokens that each row under way has read before, its picture's prefix not counted.
            pictures: that the rows are about.
        """
        return self.weights + self.token * (sum(rows) + self.prefix * pictures)


def token_bytes(config: PixelLMConfig, element: int) -> int:
    """Keys and values of a token, all layers.

    Args:
        config: sizes.
        element: bytes of a number.
    """
    llama = config.llama_config()
    heads = int(llama.num_key_value_heads or llama.num_attention_heads)
    width = int(llama.hidden_size) // int(llama.num_attention_heads)
    return 2 * int(llama.num_hidden_layers) * heads * width * element


@dataclass(frozen=True, slots=True)
class Work:
    """Operations of all that was answered."""

    images: float
    """vision, projectors, maps, and the prefix in the language model"""
    questions: float
    decode: float
    """of ids, one after the other"""
    masks: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.images + self.questions + self.decode + self.masks


def count_work(costs: Costs, images: int, answered: Iterable[Answered]) -> Work:
    """Operations of answers to questions about some images."""
    each = list(answered)
    image = costs.vision + costs.image_projector + costs.mask_projector + costs.maps + costs.prefix
    return Work(
        images=images * image,
        questions=len(each) * costs.question,
        decode=sum(costs.decode(one.ids - 1) for one in each),  # nobody reads the last id
        masks=sum(one.targets for one in each) * (costs.codebook + costs.target),
    )


def least_seconds(work: Work, steps: int, must_read: float, ceilings: Ceilings) -> float:
    """Time that the ceilings leave for some work, if nothing else took any.

    Args:
        work: of all answers.
        steps: of the language model that they took.
        must_read: bytes of all steps.
        ceilings: of the device.
    """
    if not steps:
        return work.total / ceilings.flop_rate
    reading = max(must_read / ceilings.byte_rate, work.decode / ceilings.flop_rate)
    return (work.total - work.decode) / ceilings.flop_rate + reading
