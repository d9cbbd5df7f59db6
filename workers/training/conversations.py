"""A question with its answer -> the ids that a model reads, if they can be learned as they are."""

from dataclasses import dataclass

from pixellm.added_tokens import IMAGE_END, IMAGE_START
from pixellm.answers import SEG_MARK
from pixellm.config import PixelLMConfig
from pixellm.errors import InstructionError
from pixellm.prompts import LabelledIds, label_conversation
from pixellm.tokenizer import IMAGE_TOKEN_INDEX, Tokenizer
from workers.training.examples import Example, Skipped, Why


@dataclass(frozen=True, slots=True)
class Conversation:
    """An example as the model reads it, its image still to be fetched."""

    example: Example
    ids: LabelledIds


class Writer:
    """Writes conversations for one model. It is safe to share between threads.

    Args:
        tokenizer: of the model.
        system: what stands before "USER:"; see `pixellm.prompts.system_text`.
        max_ids: of a conversation, the image counted as one; see `most_ids`.
    """

    def __init__(self, tokenizer: Tokenizer, system: str, max_ids: int) -> None:
        self.tokenizer, self.max_ids = tokenizer, max_ids
        self._system = system
        words = {tokenizer.bos_id, tokenizer.eos_id, IMAGE_TOKEN_INDEX}
        self._special = frozenset(words | set(tokenizer.added.values()))
        start, end = tokenizer.added[IMAGE_START], tokenizer.added[IMAGE_END]
        self._opening = [tokenizer.bos_id, start, IMAGE_TOKEN_INDEX, end]

    def write(self, example: Example) -> Conversation | Skipped:
        """The ids of an example, with a token group for each mask.

        Nothing is cut off: the end of an answer belongs to it, and without its token groups a
        mask would have no words.
        """
        answer = example.answer.replace(SEG_MARK, self.tokenizer.seg_text)
        try:
            ids = label_conversation(self.tokenizer, example.question, answer, self._system)
        except InstructionError:  # a second "<image>"
            return Skipped(Why.SPECIAL_TOKENS, example.item_id)
        groups = len(example.masks) * list(self.tokenizer.seg_ids)
        form = [*self._opening, *groups, self.tokenizer.eos_id]
        if [each for each in ids.ids if each in self._special] != form:
            return Skipped(Why.SPECIAL_TOKENS, example.item_id)
        if len(ids.ids) > self.max_ids:
            return Skipped(Why.TOO_LONG, example.item_id)
        return Conversation(example, ids)


def most_ids(config: PixelLMConfig) -> int:
    """How many ids a conversation may have, the image counted as one: it takes more places."""
    return int(config.llama_config().max_position_embeddings) + 1 - config.image_tokens
