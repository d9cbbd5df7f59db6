"""The page that lies beside what was learned (README.md), for whoever finds the folder.

What stands at its top between two lines of dashes is what the Hugging Face hub reads of such pages.
It names neither a base, which would have to be on the hub, nor a licence, which nobody knows here.
"""

import shlex
from collections.abc import Sequence

from pixellm.learners import Tuning
from workers.markdown import block, code, escape, table
from workers.storage.uris import join_uri, redact, shown
from workers.training.examples import TrainOn
from workers.training.plan import TrainPlan
from workers.training.record import Ancestor, TrainingRecord
from workers.wording import counted

CARD_FILE = "README.md"
_QUESTION = '"the mugs one could drink from"'


def write_card(record: TrainingRecord) -> str:
    """The page of a model or an adapter."""
    is_adapter = record.plan.result == "adapter"
    lines = [
        *_describe(is_adapter),
        *_show_use(record.plan),
        *_tell_origin(record.lineage, is_adapter),
        *_tell_data(record),
        *_tell_scores(record),
        *_list_settings(record.plan),
        "## Licence",
        "",
        "Not known to the program that wrote this page. It follows from those of the base and of"
        " the data: look both up, and write it here before you hand this folder on.",
        "",
        f"Finished at {escape(record.finished_at)}, with pixellm-workers"
        f" {escape(record.code_version)}. The same and more, for programs: training.json.",
    ]
    return "\n".join(lines) + "\n"


def _describe(is_adapter: bool) -> list[str]:
    kind = "adapter for a PixelLM" if is_adapter else "PixelLM"
    return [
        "---",
        *(["library_name: peft"] if is_adapter else []),
        "pipeline_tag: image-segmentation",
        "tags:",
        "- pixellm",
        "- referring-expression-segmentation",
        *(["- lora"] if is_adapter else []),
        "---",
        "",
        f"# A fine-tuned {kind}",
        "",
        "PixelLM (arXiv 2312.02228) answers an instruction about an image in text in which every"
        " thing that is meant carries its own mask."
        + (" This folder holds what one has learned, without the model itself." * is_adapter),
        "",
    ]


def _show_use(plan: TrainPlan) -> list[str]:
    place = _typed(join_uri(plan.output, plan.result_folder))
    if plan.result == "merged":
        return ["## Use", "", *_labelling(f"--model {place}")]
    return [
        "## Use",
        "",
        *_labelling(f"--model {_typed(plan.model)} --adapter {place}"),
        "In Python, with what was learned whole (`light`) and what LoRA has learned:",
        "",
        *block(
            "from pathlib import Path",
            "from pixellm.adapters import load_adapter",
            "from pixellm.checkpoints import load_checkpoint",
            "model = load_adapter(load_checkpoint(MODEL).model, Path(ADAPTER))",
        ),
        "`peft.PeftModel.from_pretrained(model, ADAPTER)` reads it too, but LoRA's part only.",
        "",
    ]


def _labelling(what: str) -> list[str]:
    rest = f"--input photos --output labels --instruction {_QUESTION}"
    return block(f"python jobs/label.py {what} {rest}")


def _tell_origin(lineage: Sequence[Ancestor], is_adapter: bool) -> list[str]:
    own, *others = lineage
    lines = [f"* Trained from {_name(own)}{', and fits no other model' if is_adapter else ''}"]
    lines += [f"* before that from {_name(each)}" for each in others]
    return ["## Where it comes from", "", *lines, ""]


def _tell_data(record: TrainingRecord) -> list[str]:
    lines = ["## What it has learned from", ""]
    for data, runs in zip(record.plan.data, record.runs, strict=True):
        read = f", runs {', '.join(map(code, runs))}" if runs else ""
        lines.append(f"* {_place(data.prefix)}, weight {data.weight:g}{read}")
    lines += ["", f"{record.examples:,} examples in {record.steps:,} steps."]
    if record.passed_over:
        said = ", ".join(f"{escape(why)} {n:,}" for why, n in sorted(record.passed_over.items()))
        lines[-1] += f" Passed over, by reason: {said}; in a second epoch they count again."
    if record.plan.held_out:
        lines[-1] += (
            f" {record.plan.held_out:.0%} of the images were held out, by a hash of each"
            " (`other_side` counts their rows)."
        )
    return [*lines, ""]


def _tell_scores(record: TrainingRecord) -> list[str]:
    lines = ["## How good it is", ""]
    if graded := record.graded:
        rows = [[escape(name), f"{value:.4f}"] for name, value in graded.scores.items()]
        when = f"with the weights of step {graded.step:,}"
        lines += [f"On images that it has not learned from, {when}:", ""]
        lines += table(["score", ""], rows)
    else:
        lines += ["Not scored while it learned. `jobs/evaluate.py` holds its labels to yours.", ""]
    if record.losses:
        rows = [[escape(name), f"{value:.4f}"] for name, value in record.losses.items()]
        steps = f"the last {record.loss_steps:,} steps"
        head = [f"loss, weighted, mean over {steps}", ""]
        lines += table(head, [*rows, ["all", f"{sum(record.losses.values()):.4f}"]])
    return lines


def _list_settings(plan: TrainPlan) -> list[str]:
    schedule, losses = plan.schedule, plan.losses
    rows = {
        "what learned": _name_parts(plan.tuning),
        "learning rate": f"{schedule.rate:g}, {schedule.warm_up:,} steps to rise, then"
        f" {schedule.shape} to {schedule.floor * schedule.rate:g} at step {schedule.steps:,}",
        "AdamW": f"betas {schedule.betas[0]:g} and {schedule.betas[1]:g}, decay {schedule.decay:g}",
        "a step": f"{plan.accumulate} times {counted(plan.per_worker, 'row')} on each worker",
        "weights of the losses": f"words {losses.ce:g}, BCE {losses.bce:g}, Dice {losses.dice:g},"
        f" refinement {losses.refinement:g}",
        "largest gradient": f"{schedule.clip:g}",
        "pictures": f"{plan.views.kind}, jitter {plan.views.jitter:g}, zoom {plan.views.zoom:g}",
        "order of masks that no word tells apart": plan.order,
        "rows that count": _name_rows(plan.train_on),
        "arithmetic": plan.precision,
        "seed": f"{schedule.seed}",
    }
    lines = [f"* {name}: {escape(value)}" for name, value in rows.items()]
    return ["## Settings", "", *lines, ""]


def _name_rows(train_on: TrainOn) -> str:
    rows = "those that people made or checked" if train_on.checked_only else "all but rejected ones"
    return f"{rows}; score at least {train_on.min_score:g}"


def _name_parts(tuning: Tuning) -> str:
    if tuning.full:
        return "everything"
    beside = f"beside {', '.join(tuning.targets)}"
    lora = f"LoRA (rank {tuning.rank}, alpha {tuning.alpha}, dropout {tuning.dropout:g}, {beside})"
    parts = {
        f"{lora} in the language model": tuning.rank,
        "embeddings, output layer, projectors, codebook and pixel decoder": tuning.light,
        "the decoder's neck": tuning.neck,
    }
    return "; ".join(name for name, learned in parts.items() if learned)


# ---- words of users ----


def _name(model: Ancestor) -> str:
    data = f", which had learned from {', '.join(map(_place, model.data))}" if model.data else ""
    when = f", finished at {escape(model.finished_at)}" if model.finished_at else ""
    return f"{_place(model.model)} (SHA-256 {code(model.sha256)}){data}{when}"


def _place(uri: str) -> str:
    return code(shown(uri)[1:-1])


def _typed(uri: str) -> str:
    """As an argument of a command."""
    return shlex.quote(redact(uri))
