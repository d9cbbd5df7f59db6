import html
import random
import re

import pytest

from workers.markdown import block, code, escape, one_line, table


def test_a_text_is_nothing_but_text():
    assert escape("a|<b>*c*_d_`e`[f](g)\\") == ("a\\|&lt;b>\\*c\\*\\_d\\_\\`e\\`\\[f\\](g)\\\\")
    assert escape("two\n\n# lines\t") == "two # lines"


def test_what_means_nothing_stays_as_it_is():
    for text in ("image_missing", "2026-11-25", "-rf", "R&D", "a < b", "x > 3", "3.5 mm", "f(x)!"):
        assert escape(text) == text


@pytest.mark.parametrize("start", ["# a", "- a", "+ a", "> a", ">a", "1. a", "12) a", "---", "#"])
def test_a_text_at_the_start_of_a_line_begins_nothing(start):
    assert escape(start).replace("\\", "", 1) == start
    assert "\\" in escape(start)


def test_whatever_a_text_holds_it_is_read_as_it_was_written():
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark")
    reader.enable(["table", "strikethrough"])
    dice = random.Random(1)
    for _ in range(3_000):
        signs = dice.choices("ab_*|`~<>[]()&#;\\-+.1) !=:/é", k=dice.randint(1, 9))
        if not (text := one_line("".join(signs))):
            continue
        said = reader.render("\n".join(["| a |", "| --- |", f"| {escape(text)} |", "| z |"]))
        assert re.findall("<td>(.*)</td>", said) == [html.escape(text), "z"]
        said = reader.render(f"* {escape(text)}: x")
        assert said == f"<ul>\n<li>{html.escape(text)}: x</li>\n</ul>\n"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("s3://b/<x>", "`s3://b/<x>`"),
        ("a`b``c", "```a`b``c```"),
        ("`a", "`` `a ``"),
        ("a\n\n# b", "`a # b`"),
        ("", "(nothing)"),
    ],
)
def test_code_is_fenced_by_more_ticks_than_are_in_it(text, written):
    assert code(text) == written


def test_what_can_not_be_seen_is_shown():
    assert one_line("a\x1b[31m\u202eb") == "a\ufffd[31m\ufffdb"


def test_a_block_is_as_many_lines_as_were_given():
    assert block("a\nb", "c") == ["    a b", "    c", ""]


def test_numbers_stand_to_the_right_of_their_names():
    assert table(["", "n"], [["a", "1"]]) == ["|  | n |", "| --- | ---: |", "| a | 1 |", ""]
