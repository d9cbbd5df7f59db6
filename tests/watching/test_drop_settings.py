import pytest

from workers.errors import SettingsError
from workers.storage.memory import MemoryStore
from workers.watching.drop_settings import settings_of
from workers.watching.drops import Drop
from workers.watching.settings import WatchSettings

IN, OUT = "mem://b/in", "mem://b/out"
DROP = Drop("a", f"{IN}/a", "d", 1, 1, is_marked=False)


@pytest.fixture
def settings():
    flags = ["--input", IN, "--output", OUT, "--instruction", "the dog"]
    return WatchSettings.from_everywhere([*flags, "--reading.fields.image", "photo"], "watch")


def settle(text: str, settings: WatchSettings) -> WatchSettings:
    store = MemoryStore()
    store.put(f"{DROP.input}/_pixellm.yaml", text.encode())
    return settings_of(store, DROP, settings)


def test_a_drop_without_a_file_has_the_settings_of_the_watcher_and_places_of_its_own(settings):
    settled = settings_of(MemoryStore(), DROP, settings)
    assert (settled.input, settled.output) == (f"{IN}/a", f"{OUT}/a")
    same = settled.model_copy(update={"input": settings.input, "output": settings.output})
    assert same == settings


def test_a_drop_says_what_is_asked_and_how_its_lists_are_read(settings):
    text = (
        "instruction: [the cat, 'the mug, too']\nreading: {fields: {source_id: [sku]}}\ncoco: yes"
    )
    settled = settle(text, settings)
    assert settled.instruction == ("the cat", "the mug, too")
    assert settled.reading.fields.source_id == ("sku",)
    assert settled.reading.fields.image == ("photo",)  # the watcher's own stays
    assert settled.forms == ("coco",)
    assert settings.instruction == ("the dog",)


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("instruction: the cat", ("sheet",)),
        ("exports: coco, muse", ("coco", "muse")),
        ("exports: [records, sheet]\ncoco: true", ("coco", "records", "sheet")),
        ("coco: false", ()),
        ("exports: []", ()),
    ],
)
def test_the_forms_that_a_drop_wants_are_in_the_place_of_the_watchers_own(settings, text, forms):
    assert settle(text, settings.model_copy(update={"exports": ("sheet",)})).forms == forms


def test_an_empty_file_says_nothing(settings):
    assert settle("", settings).instruction == ("the dog",)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("output: s3://other/place", r"line 1, column 1: a drop can't set 'output'.*whoever runs"),
        ("model: /tmp/evil", "can't set 'model'"),
        ("adapter: s3://x/y", "can't set 'adapter'"),
        ("reading: {roots: [/etc]}", "can't set 'reading.roots'"),
        ("queue_url: https://x/y", "can't set 'queue_url'"),
        ("instructions: the cat", r"did you mean instruction\?"),
        ("instruction: 3", "instruction"),
        ("coco: maybe", "coco: .*not 'maybe'"),
        ("exports: [coco, cvat]", r"line 1, column \d+: exports\.1: .*'coco'.*, not 'cvat'"),
        ("- a list", "must hold settings"),
        ("a: b: c", "is no YAML"),
        ("x" * 70_000, "more than 65,536 bytes"),
    ],
)
def test_what_a_drop_may_not_say_is_refused_with_its_place(settings, text, why):
    with pytest.raises(SettingsError, match=why):
        settle(text, settings)


def test_of_a_thousand_mistakes_some_are_told(settings):
    text = f"instruction: [{'1,' * 1_000}]"
    with pytest.raises(SettingsError, match=r"instruction\.4: .*\nand 995 more$"):
        settle(text, settings)


def test_a_long_value_is_not_told_in_whole(settings):
    with pytest.raises(SettingsError) as caught:
        settle(f"instruction: {'x' * 60_000}", settings)
    assert len(f"{caught.value}") < 500
