"""How far a run is, as its output says."""

from workers.labels.commits import MARKERS
from workers.storage.stores import open_store
from workers.storage.uris import join_uri


def count_markers(output: str) -> int:
    """Shards that are committed; while an output is probed, another file lies beside them."""
    markers = open_store(output).list(join_uri(output, MARKERS))
    return sum(info.uri.endswith(".json") for info in markers)
