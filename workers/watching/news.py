"""What the queue tells: which drops to look at, and which messages are done with.

Nothing is labelled because a message says so. A message makes the watcher look at a drop, and is
done with when the drop as it is now is labelled, or what it says of its object was known when the
drop was labelled last. A million messages about one drop so cost one look at it, not a million.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from itertools import chain

from workers.errors import QueueTrouble, SettingsError
from workers.logs import Level
from workers.stopping import LOOK_SECONDS, Stop
from workers.storage.uris import shown, under
from workers.watching.cursor import Cursor
from workers.watching.drops import READY_MARK, counts, drop_of
from workers.watching.events import Event
from workers.watching.messages import Message, Queue
from workers.watching.telling import Say

NO_DEAD_LETTERS = (
    "has no redrive policy: messages that can't be understood come again until they expire, and "
    "nobody finds them. Give it a dead-letter queue (infra/README.md)"
)


class News:
    """The queue of a watcher, read.

    Args:
        queue: where messages come from.
        prefix: the watched one.
        cursor: what is labelled already.
        say: takes lines for the user.
        tell: takes what is wrong with a message, and keeps it for people.
        stop: ends every wait.
    """

    def __init__(
        self,
        queue: Queue,
        prefix: str,
        cursor: Cursor,
        say: Say,
        tell: Callable[[str], None],
        stop: Stop,
    ) -> None:
        self._queue, self._prefix, self._cursor = queue, prefix, cursor
        self._say, self._tell, self._stop = say, tell, stop
        self._told: set[str] = set()
        """ids of messages that say nothing, and were told of"""
        self._seen: set[str] = set()
        """ids of those in hand for whose sake drops were looked at"""

    def check(self) -> None:
        """Looks whether the queue can be used, and has a place for dead letters.

        Raises:
            SettingsError: it can't.
        """
        try:
            state = self._queue.look()
        except QueueTrouble as error:
            raise SettingsError(f"--queue-url can't be used: {error}") from error
        if not state.dead_letters:
            self._say(f"the queue {shown(self._queue.url)} {NO_DEAD_LETTERS}", Level.WARNING)

    @property
    def is_full(self) -> bool:
        """Whether no more is received until some of what is in hand is done with."""
        return self._queue.is_full

    def prolong(self) -> None:
        """Keeps the messages in hand; see `Queue.prolong`."""
        self._queue.prolong()

    def receive(self, wait_seconds: int, waiting: Collection[str] = ()) -> set[str]:
        """Takes new messages; the names of the drops to look at for their sake.

        Args:
            wait_seconds: for the first of them; a watcher that is asked to end waits no longer.
            waiting: names of drops that are looked at in time anyway: of these, only the ones that
                a new message may have made complete.

        Raises:
            QueueTrouble: the queue does not answer, or refuses.
        """
        new = self._ask(wait_seconds)
        ours = self._let_go_of_others(new)
        drops = set(chain.from_iterable(map(self._drops, ours)))
        contents = {drop: self._cursor.content(drop) for drop in drops}  # once, not for each of all
        known = [m for m in ours if all(self._is_known(e, contents) for e in m.events)]
        self._queue.delete(known)
        marked = self._find_marked(each for each in ours if each.message_id not in self._seen)
        self._seen = {each.message_id for each in ours} - {each.message_id for each in known}
        drops = set(chain.from_iterable(self._drops(m) for m in ours if m.message_id in self._seen))
        return (drops - set(waiting)) | (drops & marked)

    def acknowledge(self, waiting: Collection[str], failed: Collection[str]) -> None:
        """Deletes the messages about drops that are done with, and lets go of some others.

        Those that came in since `receive` are left for the next one: no drop was looked at yet for
        their sake, and they may be for others.

        Args:
            waiting: names of drops that are not labelled as they are now.
            failed: of these, the ones that will not be worked on for a while.

        Raises:
            QueueTrouble: the queue does not answer, or refuses.
        """
        held = [each for each in self._queue.held if each.message_id in self._seen]
        self._queue.let_go(each for each in held if not self._drops(each).isdisjoint(failed))
        self._queue.delete([each for each in held if self._drops(each).isdisjoint(waiting)])

    def _let_go_of_others(self, new: Sequence[Message]) -> Sequence[Message]:
        """What is in hand for this watcher; the rest is left to the queue, and told of.

        All that is in hand is judged: there may be messages of a call that failed halfway, or was
        left behind.
        """
        held = self._queue.held
        foreign = {each.message_id: self._why_foreign(each) for each in held}
        # before anything is told, which may fail: what stays in hand is taken for ours, and deleted
        self._queue.let_go(each for each in held if foreign[each.message_id])
        for each in (*new, *held):
            if problem := each.problem or foreign.get(each.message_id):
                self._tell_of(each, problem)
        return [each for each in held if not foreign[each.message_id]]

    def _ask(self, wait_seconds: int) -> list[Message]:
        """Asks in a thread, which is left behind when the watcher is asked to end meanwhile.

        A long poll can't be broken off, and SIGTERM gives a pod 30 seconds. What that thread is
        still handed is hidden from others for a while and then comes again, as after a kill.
        """
        answer = Future[list[Message]]()

        def ask() -> None:
            try:
                answer.set_result(self._queue.receive(wait_seconds))
            except Exception as error:  # whoever waits for the answer gets it
                answer.set_exception(error)

        threading.Thread(target=ask, daemon=True, name="queue").start()
        while not self._stop.reason:
            if wait([answer], LOOK_SECONDS).done:
                return answer.result()
        return []

    def _drops(self, message: Message) -> set[str]:
        return {place[0] for place in self._places(message.events)}

    def _find_marked(self, messages: Iterable[Message]) -> set[str]:
        """Drops whose owners say that they are complete."""
        places = chain.from_iterable(self._places(each.events) for each in messages)
        return {drop for drop, name in places if name == READY_MARK}

    def _places(self, events: tuple[Event, ...]) -> Iterator[tuple[str, str]]:
        """Drop and name in it, of those objects that are in one."""
        for event in events:
            if (place := self._place(event)) is not None:
                yield place

    def _place(self, event: Event) -> tuple[str, str] | None:
        """Drop and name; what this watcher itself writes into its output is in none."""
        own = under(event.uri, self._cursor.output) is not None
        return None if own else drop_of(event.uri, self._prefix)

    def _is_known(self, event: Event, contents: Mapping[str, Mapping[str, str]]) -> bool:
        """Whether what it says is in what was labelled, or concerns no drop."""
        place = self._place(event)
        if place is None or not self._may_matter(place[1]):
            return True
        etag = contents[place[0]].get(place[1])
        return etag is not None and etag == event.etag and not event.is_removal

    @staticmethod
    def _may_matter(name: str) -> bool:
        return counts(name) or name == READY_MARK

    def _why_foreign(self, message: Message) -> str:
        """Why a message is not for this watcher: then another one should have it."""
        for event in message.events:
            if under(event.uri, self._prefix) is None:
                return f"it is about {shown(event.uri)}, which is not under {shown(self._prefix)}"
        return ""

    def _tell_of(self, message: Message, problem: str) -> None:
        if message.message_id not in self._told:
            self._tell(f"message {message.message_id} of the queue is left to it: {problem}")
            self._told.add(message.message_id)
