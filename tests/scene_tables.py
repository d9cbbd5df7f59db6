"""A gold table of drawn scenes, which the model that comes with the project answers well."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import pixellm
from pixellm.drawn.phrasing import full_name
from pixellm.drawn.questions import GROUP, ask
from pixellm.drawn.scenes import TEST_SEEDS, draw_scene, render
from tests.labels import ATTEMPT, make_answer, make_record
from tests.training_tables import put_table
from workers.labels.rows import answer_row
from workers.labels.schema import LabelRow
from workers.records.instructions import make_instruction
from workers.records.pictures import PictureLimits, decode_picture

SHIPPED = Path(pixellm.__file__).parent / "shipped" / "drawn"
SIDE = 192


def put_scenes(store, output, folder, count=4, questions=3) -> list[LabelRow]:
    """Draws scenes into a folder of the store, and what is true of them into a table."""
    rows = [
        row
        for seed in TEST_SEEDS[:count]
        for row in _rows_of(store, f"{folder}/{seed}.png", seed, questions)
    ]
    put_table(store, output, rows)
    return rows


def _rows_of(store, uri, seed, questions):
    scene, rng = draw_scene(seed), np.random.default_rng([7, seed])
    drawing, file = render(scene, SIDE, SIDE), io.BytesIO()
    Image.fromarray(drawing.rgb).save(file, format="PNG")
    store.put(uri, file.getvalue())
    facts = decode_picture(file.getvalue(), PictureLimits()).facts()
    for number in range(questions):
        asked = ask(scene, rng)
        names = [full_name(scene.things[at]) for at in asked.targets]
        answer = make_answer([drawing.masks[at] for at in asked.targets], names)
        text = asked.answer.replace(GROUP, "[SEG]")
        record = make_record(uri, make_instruction(asked.text, kind=asked.kind), index=number)
        row = answer_row(record, facts, answer, ATTEMPT, 1.0)
        yield replace(row, answer_text=text)
