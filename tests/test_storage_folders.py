from workers.storage.folders import put_folder
from workers.storage.memory import MemoryStore


class Noted(MemoryStore):
    """Remembers in which order things came."""

    def __init__(self):
        super().__init__()
        self.order = []

    def put(self, uri, data):
        self.order.append(uri)
        return super().put(uri, data)


def test_what_a_folder_counts_by_is_written_when_all_else_is_there(tmp_path):
    for name in ("a.safetensors", "b/c.txt", "z.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    store = Noted()
    put_folder(tmp_path, "mem://b/out", store, last=lambda name: name.endswith(".safetensors"))
    names = ["b/c.txt", "z.json", "a.safetensors"]
    assert store.order == [f"mem://b/out/{name}" for name in names]
    assert [store.get(uri).decode() for uri in store.order] == names
