"""What is said next: by the model's output layer, or by a script that puts words into its mouth.

The engine and all baselines ask the same `Speech`, so all of them pay for the output layer and all
say the same.

Shapes: N states, H width of the language model, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pixellm.answers import DecodeSettings
from pixellm.checkpoints import Checkpoint
from pixellm.engine.steps import Wanted
from pixellm.model import PixelLM
from pixellm.prompts import prompt_ids, system_text
from pixellm.tokenizer import IMAGE_TOKEN_INDEX, Tokenizer

Tail = tuple[int, ...]
"""Ids of a prompt behind its image: which question it is."""
FORCED = 1e4
"""Logit of an id that has to be said."""


class Speech:
    """Logits of the next id.

    Args:
        head: the model's output layer.
        scripts: what each question is answered with, the end token included; None: as the model
            likes.
    """

    def __init__(self, head: nn.Module, scripts: Mapping[Tail, Sequence[int]] | None) -> None:
        self.head, self.scripts = head, scripts

    def __call__(self, states: Tensor, wanted: Sequence[Wanted]) -> Tensor:
        """(N, H) -> (N, V), as the engine asks."""
        questions = [tuple(each.row.question) for each in wanted]
        return self.force(self.head(states), questions, [each.index for each in wanted])

    def force(self, logits: Tensor, questions: Sequence[Tail], indices: Sequence[int]) -> Tensor:
        """Lets the scripts overrule (N, V) logits, in place.

        Args:
            logits: of the output layer.
            questions: of each line.
            indices: which id of its answer each line says.
        """
        if self.scripts is not None:
            for line, question, index in zip(logits, questions, indices, strict=True):
                script = self.scripts[question]
                line[script[min(index, len(script) - 1)]] = FORCED
        return logits


@dataclass(frozen=True, slots=True, eq=False)
class Speaker:
    """The model that all contestants ask, and how."""

    checkpoint: Checkpoint
    settings: DecodeSettings
    speech: Speech

    @property
    def model(self) -> PixelLM:
        """PixelLM."""
        return self.checkpoint.model

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self.checkpoint.tokenizer

    def prompt(self, question: str) -> list[int]:
        """Ids of what is read before the answer, IMAGE_TOKEN_INDEX where the image goes."""
        return prompt_ids(self.tokenizer, question, system_text(self.model.config.system_text))

    def budget(self, prompt: Sequence[int]) -> int:
        """Most ids of an answer."""
        most = int(self.model.config.llama["max_position_embeddings"])
        return min(self.settings.max_new_tokens, most - self.length(prompt))

    def length(self, prompt: Sequence[int]) -> int:
        """Positions that a prompt takes with its image."""
        return len(prompt) - 1 + self.model.config.image_tokens

    def has_ended(self, ids: Sequence[int], budget: int) -> bool:
        """Whether nothing follows in an answer."""
        return ids[-1] == self.tokenizer.eos_id or len(ids) >= budget


def tail_of(prompt: Sequence[int]) -> Tail:
    """The ids of a prompt that are its question's own."""
    return tuple(prompt[prompt.index(IMAGE_TOKEN_INDEX) + 1 :])
