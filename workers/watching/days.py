"""What became of the drops of a day, on one page: OUTPUT/_days/<date>.md.

    OUTPUT/_days/2026-11-25/<time>-<drop>.json    an entry, written once
    OUTPUT/_days/2026-11-25/once-<digest>-...     the same, of what is said once a day
    OUTPUT/_days/2026-11-25.md                    the page, made of the entries

Each watcher writes its entries and then makes the page anew of all entries that are there, until no
other one has come meanwhile: so whoever writes it last has seen them all. Days are those of UTC.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from urllib.parse import quote

from workers.errors import ObjectMissing
from workers.labels.commits import now
from workers.labels.rows import LABELLED
from workers.markdown import escape, table
from workers.storage.objects import Store
from workers.storage.uris import join_uri
from workers.watching.status import NOT_OURS, STATUS_NAME, DropStatus, State
from workers.wording import counted

DAYS = "_days"  # folder of the output
QUEUE = "_queue"
"""The drop of an entry that is about messages of the queue."""


class Days:
    """The pages of an output, one a day.

    Args:
        store: where the output lies.
        output: of the watcher.
    """

    def __init__(self, store: Store, output: str) -> None:
        self._store, self._output = store, output
        self._day, self._read = "", dict[str, DropStatus | None]()
        """entries of the day by their place, as they were listed last: each is written once"""

    def note(self, status: DropStatus, *, once: bool = False) -> None:
        """Puts what became of a drop on the page of today.

        Args:
            status: of the drop.
            once: whether the same words of the same drop are no news on the same day, whichever
                watcher has said them.
        """
        moment = now()
        day = moment[:10]
        first = moment[11:26].replace(":", "")
        if once:
            first = f"once-{sha256(status.message.encode()).hexdigest()[:16]}"
        entry = join_uri(self._output, DAYS, day, f"{first}-{status.drop}.json")
        if not once or self._store.find(entry) is None:
            self._store.put(entry, status.to_json())
        uri, entries = join_uri(self._output, DAYS, f"{day}.md"), self._entries(day)
        while True:
            found = [each for each in entries.values() if each is not None]
            self._store.put(uri, _page(day, found).encode("utf-8", "replace"))
            before, entries = entries, self._entries(day)
            if entries.keys() <= before.keys():
                return

    def _entries(self, day: str) -> Mapping[str, DropStatus | None]:
        """By place, in their order; those that were read before are not read again."""
        known = self._read if day == self._day else {}
        self._day, self._read = day, {}
        for info in self._store.list(join_uri(self._output, DAYS, day)):
            uri = info.uri
            self._read[uri] = known[uri] if uri in known else self._read_entry(uri)
        return self._read

    def _read_entry(self, uri: str) -> DropStatus | None:
        """What the page needs of it; None where it is of another version, or gone."""
        try:
            status = DropStatus.from_json(self._store.get(uri))
        except (ObjectMissing, *NOT_OURS):
            return None
        return replace(status, changed={}, problems=(), not_done={})


def _page(day: str, entries: Sequence[DropStatus]) -> str:
    drops = {each.drop for each in entries if each.drop != QUEUE}
    newest = {each.drop: each for each in entries}.values()
    answers, masks = sum(map(_answers, newest)), sum(each.masks for each in newest)
    counts = ((len(drops), "drop"), (answers, "answer"), (masks, "mask"))
    sums = f"{', '.join(counted(*each) for each in counts)} (days are those of UTC)"
    lines = [f"# Drops of {day}", "", sums, ""]
    head = ("time", "drop", "state", "files", "answers", "masks", "without an answer")
    lines += table(head, (_row(each) for each in entries if each.drop != QUEUE), texts=3)
    told = [each for each in entries if each.state is not State.DONE or each.reasons]
    for each in sorted(told, key=lambda each: each.updated_at):
        lines += _sentences(each)
    return "\n".join(lines) + "\n"


def _row(each: DropStatus) -> tuple[str, ...]:
    without = sum(each.reasons.values())
    numbers = (each.files, _answers(each), each.masks, without)
    return _time(each), escape(each.drop), each.state, *(f"{n:,}" for n in numbers)


def _answers(each: DropStatus) -> int:
    return sum(each.counts.get(status, 0) for status in LABELLED)


def _time(each: DropStatus) -> str:
    return each.updated_at[11:19]


def _sentences(each: DropStatus) -> list[str]:
    """What is to be said of a drop: an item of a list, and below it one for each line of many."""
    why = ", ".join(f"{reason} {count:,}" for reason, count in each.reasons.items())
    status = quote(f"../{each.drop}/{STATUS_NAME}", errors="replace")
    link = f", [{STATUS_NAME}]({status})" if each.labels else ""
    first = f"* {_time(each)} {escape(each.drop)}{link}:"
    more = f" ({escape(why)})" if why else ""
    lines = [escape(line) for line in each.message.splitlines() if line.strip()]
    if len(lines) == 1:
        return [f"{first} {lines[0]}{more}"]
    return [f"{first}{more}", *(f"    * {line}" for line in lines)]
