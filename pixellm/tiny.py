"""A tiny random PixelLM for tests: the real code at a size that answers in milliseconds.

It has learned nothing, but it behaves: answers depend on image and question, hold whole token
groups (often several, sometimes none) and mostly end by themselves. The same arguments always give
the same weights.

    engine = Engine(tiny_checkpoint(0))
"""

import hashlib
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pixellm.checkpoints import Checkpoint, official_state
from pixellm.config import DecoderSizes, PixelLMConfig
from pixellm.engine.steps import Wanted
from pixellm.model import PixelLM
from pixellm.tokenizer import Tokenizer, train_tokenizer

CORPUS = (
    "USER: Which things here can fly? ASSISTANT: the bird is what can fly.",
    "USER: Please segment the dog and the cat. ASSISTANT: Sure, the dog is it, and the cat is.",
    "USER: What is left of the red box? ASSISTANT: Nothing in this image is left of it.",
)
"""What the tiny tokenizer knows; it spells other ASCII words out, and has no byte pieces."""
LETTERS = "".join(map(chr, range(33, 127)))
VOCABULARY = 200
"""Sentencepiece pieces before the added tokens."""
HIDDEN = 48
"""Width of the language model; the codebook's chain needs a direction per token."""
SHARE = 2.0
"""Length of a codebook token's own direction in its embedding, against 1 for other words."""
BEGIN, END, END_BEHIND = 2.5, 1.7, 0.4
"""How readily an answer begins a group and ends (1: as any word), and ends behind one (more)."""
WRITERS = re.compile(
    r"language\.model\.layers\.\d+\.(self_attn\.o_proj|mlp\.down_proj)\.weight"
    r"|image_projector\.2\.(weight|bias)"
)
"""Parameters whose rows are written into the language model's state."""


def tiny_checkpoint(
    seed: int,
    *,
    scales: int = 2,
    tokens_per_scale: int = 3,
    image_side: int = 56,
    patch: int = 14,
    clip_side: int | None = None,
    llm_grid: int = 4,
    mask_side: int = 32,
    max_positions: int = 256,
    heads: int = 4,
    key_value_heads: int = 4,
    system_text: str | None = "",
    dtype: torch.dtype = torch.float32,
) -> Checkpoint:
    """Builds the tiny model.

    Args:
        seed: of the weights.
        scales: S.
        tokens_per_scale: K.
        image_side: pixels; a multiple of `patch`.
        patch: pixels per side of a CLIP patch.
        clip_side: pixels per side on which "CLIP was trained"; the image side when None.
        llm_grid: image tokens per side for the language model.
        mask_side: side on which the scales are averaged.
        max_positions: of the language model, image included.
        heads: of the language model's queries; their width is 48 over it.
        key_value_heads: of the language model; `heads` or less.
        system_text: text before "USER:"; None is the official one, about 200 ids here.
        dtype: precision of the weights.
    """
    tokenizer = train_tokenizer((*CORPUS, LETTERS), VOCABULARY, scales * tokens_per_scale)
    config = PixelLMConfig(
        llama=_llama(tokenizer.vocab_size, max_positions, heads, key_value_heads),
        clip=_clip(scales, clip_side or image_side, patch),
        image_side=image_side,
        decoder=DecoderSizes(width=32, mlp=40, scales=scales),
        tokens_per_scale=tokens_per_scale,
        feature_layers=tuple(range(-2, -2 - scales, -1)),
        llm_grid=llm_grid,
        mask_side=mask_side,
        system_text=system_text,
    )
    model = _random_model(config, tokenizer, seed).to(dtype).eval()
    return Checkpoint(model, tokenizer, _digest(model))


def _llama(
    vocabulary: int, max_positions: int, heads: int, key_value_heads: int
) -> dict[str, object]:
    return {
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "max_position_embeddings": max_positions,
        "rms_norm_eps": 1e-6,
        "vocab_size": vocabulary,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def _clip(scales: int, side: int, patch: int) -> dict[str, object]:
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": scales + 2,
        "num_attention_heads": 4,
        "image_size": side,
        "patch_size": patch,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }


def _random_model(config: PixelLMConfig, tokenizer: Tokenizer, seed: int) -> PixelLM:
    """The same weights for the same seed; torch's own random state stays as it is."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = PixelLM(config)
        _teach_to_talk(model, tokenizer)
    return model


def _teach_to_talk(model: PixelLM, tokenizer: Tokenizer) -> None:
    """Random attention that matters, and a codebook whose tokens call for each other in turn."""
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and not name.startswith("vision.clip.embeddings"):
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    words, head = model.language.model.embed_tokens.weight, model.language.lm_head.weight
    seg_ids = list(tokenizer.seg_ids)
    # Each codebook token has a direction of the state to itself: nothing else writes there.
    ways = nn.init.orthogonal_(torch.empty(len(seg_ids), HIDDEN))
    others = torch.eye(HIDDEN) - ways.T @ ways
    nn.init.normal_(words)
    words.copy_(words @ others)
    words[seg_ids] = SHARE * HIDDEN**0.5 * ways
    for name, weight in model.named_parameters():
        if WRITERS.fullmatch(name):
            weight.copy_(others @ weight)
    head.div_(head.norm(dim=1, keepdim=True))
    head[seg_ids[0]] *= BEGIN
    head[tokenizer.eos_id] = END * head[tokenizer.eos_id] + END_BEHIND * ways[-1]
    for way, following in zip(ways[:-1], seg_ids[1:], strict=True):
        head[following] = way


def _digest(model: PixelLM) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(official_state(model).items()):
        digest.update(key.encode() + value.float().numpy().tobytes())
    return digest.hexdigest()


class Script:
    """What an engine says instead of what its model would.

        engine = Engine(checkpoint, predict=Script([[5, 2]], checkpoint.tokenizer))

    Question q of the engine, counted from its first, says script q, or the last one; a question
    whose script is over says the end token.

    Args:
        scripts: ids, the end token included.
        tokenizer: of the engine.
    """

    def __init__(self, scripts: Sequence[Sequence[int]], tokenizer: Tokenizer) -> None:
        self.scripts, self.vocabulary = scripts, tokenizer.vocab_size
        self.eos_id = tokenizer.eos_id
        self.steps = 0

    def __call__(self, states: Tensor, wanted: Sequence[Wanted]) -> Tensor:
        """(N, H) -> (N, V): certainty about the next id of each row's script."""
        self.steps += 1
        logits = states.new_full((len(states), self.vocabulary), -1e4)
        for line, each in zip(logits, wanted, strict=True):
            script = self.scripts[min(each.row.number, len(self.scripts) - 1)]
            line[script[each.index] if each.index < len(script) else self.eos_id] = 0
        return logits
