"""The page beside what was learned, as a person reads it."""

from dataclasses import replace

import yaml

from pixellm.learners import Tuning
from tests.test_training_record import SECRET, record_of
from workers.training.card import write_card
from workers.training.evaluation import Graded
from workers.training.plan import DataSet
from workers.training.record import Ancestor

HARM = "/a`b|c\n# Head <script>x</script>\x1b[0m"


def page_of(**more):
    record = record_of(**more)
    return write_card(record)


def adapter_page(**more):
    record = record_of(**more)
    return write_card(replace(record, plan=replace(record.plan, result="adapter")))


def section(page, title):
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_it_tells_what_it_is_how_to_use_it_and_where_it_comes_from():
    page = page_of(graded=Graded(7, {"giou": 0.61234}))
    assert "# A fine-tuned PixelLM\n" in page
    use = section(page, "Use")
    assert "    python jobs/label.py --model /out/model --input photos --output labels " in use
    assert "* Trained from `/base` (SHA-256 `ab`)\n" in section(page, "Where it comes from")
    data = section(page, "What it has learned from")
    assert "* `/gold`, weight 1, runs `run-1`\n" in data
    assert "140 examples in 7 steps. Passed over, by reason: other_side 3;" in data
    assert "20% of the images were held out" in data
    scores = section(page, "How good it is")
    assert "| giou | 0.6123 |" in scores
    assert "| loss, weighted, mean over the last 7 steps |" in scores
    assert "| ce | 0.5000 |" in scores
    assert "| all | 0.7500 |" in scores
    assert "* what learned: LoRA (rank 8, alpha 16, dropout 0.05, beside q, v) in" in page
    assert "* AdamW: betas 0.9 and 0.95, decay 0" in page
    assert "* largest gradient: 1" in page
    assert "* pictures: plain, jitter 0" in page
    assert "* order of masks that no word tells apart: left-to-right" in page
    assert "* a step: 10 times 2 rows on each worker" in page
    assert "Not known to the program that wrote this page" in section(page, "Licence")
    assert "Finished at 2026-11-25T12:00:00.000000+00:00, with pixellm-workers 0.1.0." in page


def test_an_adapter_is_used_with_its_base():
    page = adapter_page()
    assert "# A fine-tuned adapter for a PixelLM\n" in page
    assert "label.py --model /base --adapter /out/adapter --input" in section(page, "Use")
    assert "and fits no other model" in section(page, "Where it comes from")


def test_the_hub_reads_what_stands_at_its_top():
    tops = [yaml.safe_load(page.split("---\n")[1]) for page in (page_of(), adapter_page())]
    assert tops[0].keys() == {"pipeline_tag", "tags"}
    assert tops[1]["library_name"] == "peft"
    assert "lora" in tops[1]["tags"]


def test_scores_of_an_earlier_step_say_so():
    scores = section(page_of(graded=Graded(1500, {"giou": 0.5})), "How good it is")
    assert "On images that it has not learned from, with the weights of step 1,500:" in scores
    assert "| step |" not in scores


def test_without_scores_and_losses_it_says_so():
    scores = section(page_of(losses={}, loss_steps=0), "How good it is")
    assert "Not scored while it learned" in scores
    assert "|" not in scores


def test_all_that_the_base_descends_from_is_named():
    lineage = (Ancestor("/b", "2", ("/gold-2",), "2026"), Ancestor("/a", "1"))
    text = section(page_of(lineage=lineage), "Where it comes from")
    assert "* Trained from `/b` (SHA-256 `2`), which had learned from `/gold-2`, finished" in text
    assert "* before that from `/a` (SHA-256 `1`)" in text


def test_words_of_users_break_nothing():
    lineage = (Ancestor(HARM, HARM, (HARM,), HARM),)
    more = {"runs": ((HARM,),), "passed_over": {HARM: 1}, "graded": Graded(7, {HARM: 1.0})}
    page = adapter_page(lineage=lineage, data=(DataSet(HARM),), code_version=HARM, **more)
    heads = [line for line in page.splitlines() if line.lstrip().startswith("#")]
    assert len(heads) == len([line for line in adapter_page().splitlines() if line.startswith("#")])
    assert "\x1b" not in page
    for line in page.splitlines():
        if "<script>" in line:  # as code it is only letters
            assert line.startswith("    ") or "``/a`b|c" in line
    assert yaml.safe_load(page.split("---\n")[1])["library_name"] == "peft"


def test_secrets_of_addresses_are_not_in_it():
    page = adapter_page(lineage=(Ancestor(SECRET, "1"),), data=(DataSet(SECRET),))
    assert "abc123" not in page
    assert page.count("X-Amz-Signature=...") == 3


def test_the_parts_that_learned_are_named_as_they_were_told():
    def learned(**tuning):
        record = record_of()
        plan = replace(record.plan, tuning=Tuning(**tuning))
        page = write_card(replace(record, plan=plan))
        return next(line for line in page.splitlines() if line.startswith("* what learned"))

    assert "everything" in learned(full=True)
    assert "LoRA" not in learned(rank=0)
    assert "codebook" not in learned(light=False)
    assert "neck" in learned(neck=True)
