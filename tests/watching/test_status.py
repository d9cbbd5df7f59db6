def test_bad_files_are_told_with_reasons_and_the_rest_is_labelled(place):
    folder = place.drop("friday", 0)
    (folder / "broken.jpg").write_bytes(b"no picture")
    place.watch_once()
    status = place.status("friday")
    assert status["counts"]["rejected_input"] == 1
    (problem,) = status["problems"]
    assert problem["image"].endswith("broken.jpg")
    assert problem["reason"] in status["reasons"]
    assert "1 question without one" in status["message"]


def test_files_that_are_not_read_are_named(place):
    folder = place.drop("friday", 0)
    for name in ("0.txt", "film.mp4", "IMG_1.HEIC", "notes.txt", "_pixellm.yaml"):
        (folder / name).write_text("")
    place.watch_once()
    status = place.status("friday")
    assert status["not_read"] == ["IMG_1.HEIC", "film.mp4", "notes.txt"]
    assert "3 files of a kind that is not read" in status["message"]
