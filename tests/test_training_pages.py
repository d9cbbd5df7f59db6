"""A page of sample predictions: whole in itself, and harmless whatever a table or a model says."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from tests.labels import label_photo
from tests.photos import load_photos
from workers.labels.targets import IGNORE_REGION
from workers.sheets.sheet import draw_photo, fit_photo, make_card
from workers.training.curves import draw_curve
from workers.training.evaluation import Evaluation, Graded
from workers.training.pages import MOST_CHARS, page_name, show_row, write_page

EVIL = "<script>alert('x')</script> \" & <img src=x onerror=y>"
SCORES = {"giou": 0.625, "exact": 0.25, "loss": 1.5}
HISTORY = [Graded(100, {"giou": 0.5}), Graded(200, {"loss": 2.0}), Graded(500, SCORES)]
SEEN = Evaluation(500, SCORES, 40, 12.3, "giou", Graded(500, SCORES))
PHOTO = next(photo for photo in load_photos() if len(photo.masks) > 2)
ROW = label_photo(PHOTO)


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.names, self.links, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "img", "path", "polyline", "circle") or "/" in (attrs or ""):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.names.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag


def page(*rows, history=HISTORY, seen=SEEN) -> str:
    return write_page(seen, 5_000, rows, history).decode()


def pictures(text):
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in found]


def test_right_and_said_stand_side_by_side_over_the_same_photo():
    said = replace(ROW, targets=ROW.targets[:1], answer_text="only [SEG].")
    text = page(show_row(ROW, said, PHOTO.rgb, 0.625))
    small = fit_photo(PHOTO.rgb)
    right, model = pictures(text)
    for drawn, row in ((right, ROW), (model, said)):
        expected = np.asarray(draw_photo(make_card(row, small)), float)
        assert np.abs(drawn - expected).mean() < 4  # of 255; it is a JPEG
    assert np.abs(right.astype(float) - model).mean() > 1
    assert "<p>only [SEG].</p>" in text
    assert "<p>IoU 0.62</p>" in text
    for phrase in PHOTO.phrases:
        assert f"</span>{phrase}</div>" in text


def test_nothing_is_loaded_and_nothing_runs():
    evil = replace(
        ROW,
        instruction=EVIL,
        answer_text=EVIL,
        targets=tuple(replace(each, phrase=EVIL) for each in ROW.targets),
    )
    text = page(show_row(evil, evil, PHOTO.rgb, None))
    tags = Tags(text)
    assert "script" not in tags.names
    assert tags.names.count("img") == 2
    assert "onerror=y>" not in text
    assert text.count("&lt;script&gt;") == 3 + 2 * len(ROW.targets)
    outside = [link for link in tags.links if not link.startswith("data:image/jpeg;base64,")]
    assert outside == ["000000200.html"]
    assert not tags.open


def test_scores_stand_on_top_with_the_best_and_their_meaning():
    text = page()
    assert "<h1>Step 500 of 5,000</h1>" in text
    assert "40 questions, the same at every evaluation, in 12 s; the best gIoU so far" in text
    assert '<tr><th>gIoU</th><td class="number">0.625</td>' in text
    assert '<tr><th>loss</th><td class="number">1.500</td>' in text
    assert "cIoU" not in text.split("</table>")[0].replace("mean IoU", "")
    older = replace(SEEN, best=Graded(100, {"giou": 0.75}))
    assert "best gIoU so far 0.750, at step 100" in page(seen=older)


def test_a_model_without_an_answer_and_ignore_regions_are_shown_as_what_they_are():
    first, *rest = ROW.targets
    gold = replace(ROW, targets=(*rest, replace(first, flags=(IGNORE_REGION,))))
    shown = show_row(gold, None, PHOTO.rgb, 0.0)
    assert shown.right.phrases == PHOTO.phrases[1:]
    assert shown.said.phrases == ()
    assert "<p>(no answer)</p>" in page(shown)


def test_an_endless_answer_is_cut():
    shown = show_row(ROW, replace(ROW, answer_text="a&" * MOST_CHARS), PHOTO.rgb, 0.0)
    assert f"<p>{'a&amp;' * (MOST_CHARS // 2)}...</p>" in page(shown)


def test_a_curve_goes_through_the_steps_that_have_the_score():
    curve = draw_curve(HISTORY, "giou")
    assert re.findall(r"<title>(.*?)</title>", curve) == ["step 100: 0.500", "step 500: 0.625"]
    (points,) = re.findall(r'points="(.*?)"', curve)
    (x1, y1), (x2, y2) = (map(float, each.split(",")) for each in points.split())
    assert x1 < x2
    assert y1 > y2  # higher is better, and upwards is less
    assert draw_curve(HISTORY[:1], "giou") == ""
    assert draw_curve(HISTORY, "last") == curve
    assert "step 500: 1.500" in draw_curve(HISTORY, "loss")


def test_a_first_page_links_to_none():
    assert "href" not in page(history=HISTORY[-1:])
    assert page_name(500) == "000000500.html"
