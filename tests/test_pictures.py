import hashlib
import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.photos import load_photos
from workers.errors import RecordRejected
from workers.records.pictures import (
    MAX_JPEG_SCANS,
    MAX_SIDE,
    PictureLimits,
    decode_picture,
    identify_undecoded,
)
from workers.records.rejections import Reason

LIMITS = PictureLimits()
ORIENTATION = 0x0112


def save(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def small_photo() -> Image.Image:
    return Image.fromarray(load_photos()[0].rgb).resize((60, 40))


def refusal(data: bytes, limits: PictureLimits = LIMITS) -> str:
    with pytest.raises(RecordRejected) as caught:
        decode_picture(data, limits)
    assert caught.value.message
    return caught.value.code


def test_real_photos_are_decoded_with_their_facts():
    for photo in load_photos():
        picture = decode_picture(photo.data, LIMITS)
        assert np.array_equal(picture.rgb, photo.rgb)
        assert picture.sha256 == hashlib.sha256(photo.data).hexdigest()
        assert (picture.height, picture.width) == photo.rgb.shape[:2]
        assert picture.facts().exif_orientation == picture.exif_orientation == 1


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "MPO"])
def test_each_format_is_read_and_its_first_half_is_refused(form):
    data = save(small_photo(), form)
    assert decode_picture(data, LIMITS).rgb.shape == (40, 60, 3)
    for share in (0.3, 0.5, 0.9):
        assert refusal(data[: int(len(data) * share)]) in (
            Reason.IMAGE_BROKEN,
            Reason.IMAGE_SUSPICIOUS,
        )


@pytest.mark.parametrize("form", ["PPM", "ICO", "TGA", "PDF", "EPS"])
def test_other_formats_are_refused(form):
    assert refusal(save(small_photo(), form)) == Reason.IMAGE_UNKNOWN_FORMAT


def test_another_format_that_begins_like_one_of_ours_is_not_read():
    lines = b"GIF8: as a key of an IM file\r\nImage type: RGB image\r\nImage size (x*y): 2*1\r\n"
    assert refusal(lines.ljust(511, b"\0") + b"\x1a" + bytes(6)) == Reason.IMAGE_BROKEN


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_what_is_no_image_is_refused(data):
    assert refusal(data) == Reason.IMAGE_UNKNOWN_FORMAT


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (b"\xff\xd8 no image", "JPEG"),
        (b"\x89PNG no image", "PNG"),
        (b"RIFF....WAVE", "WEBP"),
        (b"BM no image", "BMP"),
        (b"GIF8 no image", "GIF"),
        (b"II*\0\x08\0\0\0" + bytes(8), "TIFF"),
        (b"MM\0*\0\0\0\x08" + bytes(8), "TIFF"),
    ],
)
def test_what_only_begins_like_an_image_is_told_in_the_same_words_each_time(data, form):
    """Pillow would say where in memory the bytes were: something else in every run."""
    with pytest.raises(RecordRejected) as caught:
        decode_picture(data, LIMITS)
    assert caught.value.code == Reason.IMAGE_BROKEN
    assert caught.value.message == f"it begins like a {form} and can't be read as one"


def test_a_want_of_memory_is_no_fault_of_the_picture(monkeypatch):
    def no_room(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", no_room)
    with pytest.raises(MemoryError):
        decode_picture(save(small_photo(), "PNG"), LIMITS)


def test_bytes_drawn_at_random_never_raise_anything_else():
    rng = np.random.default_rng(1)
    read = refused = 0
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        data = np.frombuffer(save(small_photo(), form), np.uint8)
        for _ in range(60):
            broken = data.copy()
            broken[rng.integers(0, min(len(data), 400), 4)] = rng.integers(0, 256, 4)
            try:
                read += decode_picture(broken.tobytes(), LIMITS).rgb.ndim == 3
            except RecordRejected as error:
                refused += error.code in set(Reason)
    assert read + refused == 5 * 60
    assert min(read, refused) > 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_applied_and_kept_in_the_facts(form, orientation):
    upright = np.zeros((8, 16, 3), dtype=np.uint8)
    upright[:4, :8] = 255  # upper left quarter
    turns = {2: "f", 3: "rr", 4: "rrf", 5: "rf", 6: "r", 7: "rrrf", 8: "rrr"}
    stored = upright
    for turn in reversed(turns.get(orientation, "")):
        stored = np.fliplr(stored) if turn == "f" else np.rot90(stored, 1)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 100} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    data = save(Image.fromarray(np.ascontiguousarray(stored)), form, exif=exif, **options)
    picture = decode_picture(data, LIMITS)
    assert (picture.width, picture.height, picture.exif_orientation) == (16, 8, orientation)
    assert np.abs(picture.rgb.astype(int) - upright).max() < 40


def test_more_bytes_than_allowed_are_refused():
    data = save(small_photo(), "PNG")
    assert decode_picture(data, PictureLimits(max_bytes=len(data)))
    assert refusal(data, PictureLimits(max_bytes=len(data) - 1)) == Reason.IMAGE_TOO_LARGE


def test_more_pixels_than_allowed_are_refused():
    data = save(small_photo(), "PNG")
    assert decode_picture(data, PictureLimits(max_pixels=2400))
    assert refusal(data, PictureLimits(max_pixels=2399)) == Reason.IMAGE_TOO_MANY_PIXELS


def test_a_strip_that_is_longer_than_any_photo_is_refused():
    """It has few pixels, and its masks would take gigabytes for each."""
    longest = save(Image.new("L", (MAX_SIDE, 1)), "PNG")
    assert decode_picture(longest, LIMITS).width == MAX_SIDE
    for size in ((MAX_SIDE + 1, 1), (1, MAX_SIDE + 1)):
        assert refusal(save(Image.new("L", size), "PNG")) == Reason.IMAGE_TOO_MANY_PIXELS


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    assert refusal(data) == Reason.IMAGE_TOO_MANY_PIXELS


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_several_frames_are_refused(form):
    frames = [small_photo(), small_photo().rotate(180)]
    data = save(frames[0], form, save_all=True, append_images=frames[1:])
    assert refusal(data) == Reason.IMAGE_ANIMATED


def test_a_phone_s_photo_with_a_preview_behind_it_is_a_photo():
    preview = small_photo().resize((30, 20))
    data = save(small_photo(), "MPO", save_all=True, append_images=[preview])
    assert decode_picture(data, LIMITS).rgb.shape == (40, 60, 3)


@pytest.mark.parametrize("form", ["JPEG", "MPO"])
def test_a_jpeg_of_endless_scans_is_refused_before_one_of_them_is_read(form):
    options = {"save_all": True, "append_images": [small_photo()]} if form == "MPO" else {}
    data = save(small_photo(), form, **options)
    at, scan = data.index(b"\xff\xda"), b"\xff\xda\x00\x02"
    more = MAX_JPEG_SCANS - data.count(scan[:2])
    for count, told in ((more, False), (more + 1, True)):
        with pytest.raises(RecordRejected, match="image_broken") as caught:
            decode_picture(data[:at] + scan * count + data[at:], LIMITS)
        assert (caught.value.message == "a JPEG of more than 200 scans") == told


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_there_is_not_turns_nothing(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture = decode_picture(save(small_photo(), "JPEG", exif=exif), LIMITS)
    assert (picture.width, picture.height, picture.exif_orientation) == (60, 40, 1)


def test_what_is_transparent_becomes_white():
    image = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert decode_picture(save(image, "PNG"), LIMITS).rgb.tolist() == [[[200, 0, 0], [255] * 3]]


def test_a_palette_with_a_transparent_colour_becomes_white_without_a_warning():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    data = save(image, "PNG", transparency=bytes([255, 0]))
    assert decode_picture(data, LIMITS).rgb.tolist() == [[[10, 20, 30], [255] * 3]]


def test_grey_of_16_bits_keeps_its_high_byte():
    data = save(Image.fromarray(np.array([[0, 0x1234, 0xFFFF]], dtype=np.uint16)), "PNG")
    assert decode_picture(data, LIMITS).rgb[0, :, 0].tolist() == [0, 0x12, 0xFF]


def test_cmyk_becomes_rgb():
    white_and_red = np.array([[[0, 0, 0, 0], [0, 255, 255, 0]]], dtype=np.uint8)
    image = Image.fromarray(white_and_red, "CMYK").resize((32, 16), Image.Resampling.NEAREST)
    rgb = decode_picture(save(image, "JPEG", quality=100), LIMITS).rgb
    assert rgb[0, 0].min() > 240
    assert rgb[0, -1, 0] > 200
    assert rgb[0, -1, 1:].max() < 60


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P"])
def test_grey_and_palette_become_three_channels(mode):
    assert decode_picture(save(small_photo().convert(mode), "PNG"), LIMITS).rgb.shape == (40, 60, 3)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_an_agreed_range_are_refused(mode):
    data = save(small_photo().convert("L").convert(mode), "TIFF")
    assert refusal(data) == Reason.IMAGE_PIXEL_KIND


def test_a_warning_of_the_reader_is_a_refusal_in_every_thread():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = bytearray(save(small_photo(), "JPEG", exif=exif))
    at = data.index(b"Exif\0\0") + 6
    data[at + 8 : at + 10] = b"\xff\x7f"  # the count of entries: far more than there are
    seen = []

    def decode() -> None:
        try:
            decode_picture(bytes(data), LIMITS)
        except RecordRejected as error:
            seen.append(error.code)

    threads = [threading.Thread(target=decode) for _ in range(4)]
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == [Reason.IMAGE_SUSPICIOUS] * 4


def test_of_a_refused_file_the_digest_is_still_known():
    facts = identify_undecoded(b"broken")
    assert (facts.sha256, facts.width) == (hashlib.sha256(b"broken").hexdigest(), 0)
