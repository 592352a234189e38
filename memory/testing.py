"""For authors of a record: a tiny one in memory, and the contract that every record keeps."""

from __future__ import annotations

from .record import Episode, Record


class ListRecord:
    """A record in a list; gone with the process."""

    def __init__(self) -> None:
        self._episodes: dict[str, Episode] = {}

    def remember(self, episode: Episode) -> None:
        """Keep a turn once."""
        self._episodes.setdefault(episode.turn_id, episode)

    def history(self, thread_id: str, last: int = 8) -> tuple[Episode, ...]:
        """The last turns of a conversation, oldest first.

        Raises:
            ValueError: If `last` is negative.
        """
        if last < 0:
            raise ValueError(f"last must be 0 or more, not {last}")
        mine = [episode for episode in self._episodes.values() if episode.thread_id == thread_id]
        return tuple(mine[max(0, len(mine) - last) :])


def check_record(record: Record) -> None:
    """Hold an empty record against its contract.

    Raises:
        AssertionError: With the sentence that it breaks.
    """
    assert record.history("nobody") == (), "a conversation that never was has no history"
    turns = [Episode(f"check-{n}", "check", f"heard {n} — ü", f"said {n}", float(n), {"n": n}) for n in range(5)]
    other = Episode("check-other", "other", "secret", "kept apart", 9.0)
    for episode in (*turns, other):
        record.remember(episode)
    assert record.history("check") == tuple(turns), "a conversation comes back whole, in order, with its details"
    assert record.history("check", last=2) == tuple(turns[-2:]), "`last` gives the newest turns, oldest first"
    assert record.history("check", last=0) == (), "`last=0` gives nothing"
    try:
        record.history("check", last=-1)
    except ValueError:
        pass
    else:
        raise AssertionError("a negative `last` is refused")
    assert record.history("other") == (other,), "conversations are kept apart"
    record.remember(turns[-1])
    assert record.history("check") == tuple(turns), "a turn recorded twice is there once"
