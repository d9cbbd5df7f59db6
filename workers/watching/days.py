"""What became of the drops of a day, on one page: OUTPUT/_days/<date>.md.

    OUTPUT/_days/2026-11-25/<time>-<drop>.json    an entry, written once
    OUTPUT/_days/2026-11-25.md                    the page, made of the entries

Each watcher writes its entries and then makes the page anew of all entries that are there; so the
page is right whoever made it last, and days are those of UTC.
"""

import json
from collections.abc import Iterator

from workers.labels.commits import now
from workers.markdown import escape, table
from workers.storage.objects import Store
from workers.storage.uris import join_uri
from workers.watching.status import DropStatus, State

DAYS = "_days"  # folder of the output
QUEUE = "_queue"
"""The drop of an entry that is about messages of the queue."""


def note(store: Store, output: str, status: DropStatus) -> None:
    """Puts what became of a drop on the page of today."""
    moment = now()
    day = moment[:10]
    time = moment[11:26].replace(":", "")
    entry = join_uri(output, DAYS, day, f"{time}-{status.drop}.json")
    store.put(entry, status.to_json())
    page = _page(store, output, day)
    store.put(join_uri(output, DAYS, f"{day}.md"), page.encode("utf-8", "replace"))


def _page(store: Store, output: str, day: str) -> str:
    entries = list(_entries(store, output, day))
    drops = {each.drop for each in entries if each.drop != QUEUE}
    newest = {each.drop: each for each in entries}.values()
    rows, masks = sum(each.rows for each in newest), sum(each.masks for each in newest)
    lines = [f"# Drops of {day}", ""]
    lines += [
        f"{len(drops):,} drops, {rows:,} answers, {masks:,} masks (days are those of UTC)",
        "",
    ]
    head = ("time", "drop", "state", "files", "answers", "masks", "without an answer")
    lines += table(head, (_row(each) for each in entries if each.drop != QUEUE))
    lines += [_sentence(each) for each in entries if each.state is not State.DONE or each.reasons]
    return "\n".join(lines) + "\n"


def _row(each: DropStatus) -> tuple[str, ...]:
    without = sum(each.reasons.values())
    numbers = (each.files, each.rows, each.masks, without)
    return each.updated_at[11:19], escape(each.drop), each.state, *(f"{n:,}" for n in numbers)


def _sentence(each: DropStatus) -> str:
    why = ", ".join(f"{reason} {count:,}" for reason, count in each.reasons.items())
    return f"* {escape(each.drop)}: {escape(each.message)}{f' ({escape(why)})' if why else ''}"


def _entries(store: Store, output: str, day: str) -> Iterator[DropStatus]:
    for info in store.list(join_uri(output, DAYS, day)):
        try:
            yield DropStatus.from_json(store.get(info.uri))
        except (json.JSONDecodeError, TypeError, ValueError, KeyError):
            continue  # of another version; the page does without
