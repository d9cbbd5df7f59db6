from workers.watching.marks import is_any_unread, is_settled, mark_refused, mark_unread


def test_a_drop_is_settled_once_it_is_labelled_or_refused_as_it_is(place):
    settings = place.settings()
    assert is_settled({"now"}, "now", settings)
    assert is_settled({mark_refused("now", settings)}, "now", settings)
    for marks in (None, set(), {"before"}, {"before", "now"}, {mark_unread("now")}):
        assert not is_settled(marks, "now", settings)


def test_what_was_refused_is_not_settled_when_other_things_are_asked(place):
    before, after = place.settings(), place.settings("--instruction", "the cat")
    assert not is_settled({mark_refused("now", before)}, "now", after)


def test_a_drop_with_images_that_could_not_be_read_says_so(place):
    assert is_any_unread({mark_unread("now")})
    assert not is_any_unread({"now", mark_refused("now", place.settings())})
