import pytest

from workers.markdown import block, code, escape, one_line, table


def test_a_text_is_nothing_but_text():
    assert escape("a|<b>*c*_d_`e`[f](g)\\") == (
        "a&#124;&#60;b&#62;&#42;c&#42;&#95;d&#95;&#96;e&#96;&#91;f&#93;(g)&#92;"
    )
    assert escape("two\n\n# lines\t") == "two # lines"


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
