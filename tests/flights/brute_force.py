"""The point-in-time join, written down again in the plainest way.

This is what the engines are compared with, so it shares nothing with them: no join, no sort, no
DataFrame. For every entity row all facts of its key are looked at, and the last one that counts is kept.

The rule, for an entity row with key k and time t and a view with time to live `ttl`:

* a fact counts if its key is k and `t - ttl <= its event time <= t`, both ends included; a ttl of
  zero means that facts never expire;
* of several, the newest event time wins; of equal ones, the newest created time; of equal ones
  still, any (which of them is not defined, and the flights have none);
* a row with a null key, or without any fact that counts, gets nulls; every row appears once, in order.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Iterable, Sequence

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class View:
    """A feature view as the join sees it: its facts, what identifies them and how long they hold."""

    name: str
    facts: pa.Table
    join_key: str
    features: Sequence[str]
    ttl: timedelta = timedelta(0)
    timestamp: str = "event_timestamp"
    created: str | None = None


def join(keys: Iterable[Any], times: Iterable[int], view: View) -> list[tuple[Any, ...] | None]:
    """For each (key, time in µs), the features of the fact that holds then, or None."""
    ttl = view.ttl // timedelta(microseconds=1)
    event = np.array(microseconds(view.facts[view.timestamp]))
    created = np.array(microseconds(view.facts[view.created])) if view.created else np.zeros_like(event)
    rows_of: dict[Any, list[int]] = {}
    for row, key in enumerate(view.facts[view.join_key].to_pylist()):
        rows_of.setdefault(key, []).append(row)
    rows_of.pop(None, None)
    facts = {key: np.array(rows) for key, rows in rows_of.items()}
    columns = [view.facts[name].to_pylist() for name in view.features]

    def scan(key: Any, time: int) -> tuple[Any, ...] | None:
        if key not in facts:
            return None
        rows = facts[key]
        rows = rows[(event[rows] <= time) & ((ttl == 0) | (event[rows] >= time - ttl))]
        if rows.size == 0:
            return None
        rows = rows[event[rows] == event[rows].max()]
        rows = rows[created[rows] == created[rows].max()]
        return tuple(column[rows[-1]] for column in columns)

    known: dict[tuple[Any, int], tuple[Any, ...] | None] = {}  # many flights share an airport and a minute
    answers = []
    for at in zip(keys, times, strict=True):
        if at not in known:
            known[at] = scan(*at)
        answers.append(known[at])
    return answers


def microseconds(times: pa.ChunkedArray) -> list[int]:
    """Times as whole µs since 1970-01-01 UTC: integers, so that no precision or time zone can get in between."""
    return times.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()
