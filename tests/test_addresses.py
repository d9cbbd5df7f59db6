import pytest

from tests.records import ROOT, codes, read_lines
from workers.records.addresses import MAX_ADDRESS_CHARS
from workers.records.rejections import Reason


@pytest.mark.parametrize(
    ("path", "roots", "uri"),
    [
        ("./sub/../a.jpg", (), f"{ROOT}/a.jpg"),
        (f"{ROOT}/x/a.jpg", (), f"{ROOT}/x/a.jpg"),
        ("../photos/a.jpg", ("mem://bucket",), "mem://bucket/photos/a.jpg"),
        ("s3://other/a.jpg", ("s3://other",), "s3://other/a.jpg"),
        ("s3://other/a.jpg", (ROOT, "s3://other"), "s3://other/a.jpg"),
        ("/data/a.jpg", ("/data",), "/data/a.jpg"),
        ("file:///data/a%20b.jpg", ("/data",), "/data/a b.jpg"),
        ("x" * MAX_ADDRESS_CHARS, (), f"{ROOT}/{'x' * MAX_ADDRESS_CHARS}"),
    ],
)
def test_an_address_under_a_root_is_read(path, roots, uri):
    (record,) = read_lines({"image": path}, roots=roots)
    assert (record.rejection, record.image.uri) == (None, uri)


def test_a_root_that_is_named_twice_is_told_once():
    (record,) = read_lines({"image": "/elsewhere/a.jpg"}, roots=(ROOT, ROOT))
    assert record.rejection.message.count(ROOT) == 1


def test_the_folder_of_the_file_may_be_read_beside_the_roots_but_nothing_around_it():
    beside, root, outside = read_lines(
        {"image": "x/a.jpg"},
        {"image": "s3://other/a.jpg"},
        {"image": "../a.jpg"},
        roots=("s3://other",),
    )
    assert (beside.image.uri, root.image.uri) == (f"{ROOT}/x/a.jpg", "s3://other/a.jpg")
    assert codes([beside, root, outside]) == [None, None, Reason.IMAGE_REFUSED]


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jpg",
        "x/../../secret.jpg",
        "../../../../../etc/passwd",
        "/etc/passwd",
        "file:///etc/passwd",
        "mem://bucket/inside.jpg",
        f"{ROOT}/../secret.jpg",
        "s3://other/a.jpg",
        "http://169.254.169.254/latest/meta-data",
        "s3://",
        "s3:///x.jpg",
        "file://~nosuchuser/x.jpg",
        "file:///in/a%00.jpg",
        "https://example.org/a.jpg?X-Amz-Signature=SECRET",
        "ftp://example.org/a.jpg",
        "data:image/png;base64,AAAA/../../../x",
        "a\0.jpg",
        "\ud800.jpg",
        "x" * (MAX_ADDRESS_CHARS + 1),
        5,
        ["a.jpg"],
        {"path": "../a.jpg"},
    ],
)
def test_an_address_outside_the_roots_is_refused_with_a_reason(path):
    (record,) = read_lines({"image": path, "instruction": "the cat"})
    assert record.rejection.code == Reason.IMAGE_REFUSED
    assert "SECRET" not in f"{record}"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_of_an_address_of_the_web_the_way_out_is_told(scheme):
    (record,) = read_lines({"image": f"{scheme}://host/a.jpg"})
    assert "is on the web; copy the image into the bucket" in record.rejection.message


def test_the_image_of_a_refused_address_still_names_it():
    (record,) = read_lines({"image": "http://host/a.jpg"})
    assert record.image.uri == "http://host/a.jpg"
