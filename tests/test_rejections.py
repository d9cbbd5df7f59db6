from workers.records.rejections import quote


def test_what_is_quoted_begins_as_it_was_written_and_is_at_most_80_characters_long():
    assert quote("a" * 70) == repr("a" * 70)
    assert quote("a" * 500) == f"'{'a' * 76}..."
    assert len(quote({f"key {number}": "x" * 50 for number in range(9)})) == 80


def test_what_is_quoted_need_not_be_possible_to_write_down():
    """Lists in lists a few deep can stand for more text than there is memory."""
    assert quote([[[[[["deep"]]]]]]) == "[[[[[...]]]]]"
    assert quote(2**20_000) == "<a number of 20,001 bits>"
