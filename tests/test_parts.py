import pytest

from tests.test_manifests import label
from workers.errors import CommitError
from workers.labels.parts import open_table
from workers.storage.memory import MemoryStore

OUTPUT = "mem://bucket/out"


def test_of_an_output_with_a_table_in_each_folder_one_of_them_is_named():
    store = MemoryStore()
    store.put(f"{OUTPUT}/_days/2026-11-25.md", b"a day")
    label(store, output=f"{OUTPUT}/friday")
    with pytest.raises(CommitError, match=r"nothing has been.*, such as 'mem://bucket/out/friday'"):
        open_table(store, OUTPUT, None)
    assert open_table(store, f"{OUTPUT}/friday", None).parts


def test_where_there_is_no_table_at_all_none_is_named():
    store = MemoryStore()
    store.put(f"{OUTPUT}/_days/2026-11-25.md", b"a day")
    with pytest.raises(CommitError, match=r"under 'mem://bucket/out', which .* yet$"):
        open_table(store, OUTPUT, None)


def test_of_a_table_without_the_run_that_is_asked_for_no_other_folder_is_named():
    store = MemoryStore()
    label(store)
    label(store, output=f"{OUTPUT}/Before")
    with pytest.raises(CommitError, match="nothing has been committed by the run 'other'") as told:
        open_table(store, OUTPUT, "other")
    assert "Before" not in f"{told.value}"
