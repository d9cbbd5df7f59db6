"""Which run a start of a command goes on with, or begins."""

from collections.abc import Callable

from workers.labels.manifests import manifests
from workers.storage.objects import Store


def choose_run_id(
    store: Store,
    output: str,
    asked: tuple[str, str, str],
    make_id: Callable[..., str],
    *,
    refresh: bool,
) -> str:
    """The id of a run.

    A refresh is a new run with an id made of the one it refreshes, so that it is found again when
    it was killed. Once it is finished, starts without `--refresh` go on with it: its labels are
    the newest, and a run before it would bring back what it has mended.

    Args:
        store: of the label table.
        output: its prefix.
        asked: input, fingerprint and digest of the settings.
        make_id: an id of texts, the same for the same ones.
        refresh: whether what is done is looked at again.
    """
    finished = next(
        (
            each.run_id
            for each in manifests(store, output)
            if (each.input, each.fingerprint, each.settings_digest) == asked
        ),
        None,
    )
    if finished is None:
        return make_id(*asked)
    return make_id(*asked, finished) if refresh else finished
