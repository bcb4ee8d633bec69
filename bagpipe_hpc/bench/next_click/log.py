"""From a log of clicks to a table that `bagpipe import table` reads: clicks and sampled negatives, in time order.

Every click after the first one of its session is a sample with label 1. In front of it stand negatives, samples with
label 0: articles that were clicked shortly before, by anyone, and that neither the session so far nor the click has.
They are drawn by the clicks themselves, so an article is drawn in proportion to its popularity at that time. A model
that only knows what is popular cannot tell them from clicks; it needs the history. A click and its negatives are one
request, the group of the samples.

The first click of a session has nothing to be predicted from. It is in the table with weight 0, so that it enters the
history of the session.
"""

from __future__ import annotations

import csv
import gzip
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from bagpipe_hpc.data.importing.description import TableDescription
from bagpipe_hpc.errors import DatasetError
from bagpipe_hpc.sharding import Int64Array

SESSION, ARTICLE, TIME = LOG_COLUMNS = ("session_id", "click_article_id", "click_timestamp")
USER = "user_id"
COLUMNS = ("user", "session", "request", "article", "time", "label", "weight")
DAY = 86_400_000  # in the log's unit of time, milliseconds
RULES = {
    "user": {"capacity": 100_000, "expire_after": f"{2 * DAY} units", "at_capacity": "oldest"},
    "article": {"capacity": 20_000, "expire_after": f"{DAY} units", "at_capacity": "oldest"},
}
"""Of the dynamic tables. Ids are admitted at once: the first sample of an article is always a click, because negatives
are clicks of the past. If ids waited for their second use, the default row would learn that new articles are clicked.
"""
RECENT_CLICKS = 10_000  # negatives come from so many clicks before
_TRIES = 20  # for each negative
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Clicks:
    """Clicks in time order.

    Args:
        users: int64, shape (n,).
        sessions: int64, shape (n,).
        articles: int64, shape (n,).
        times: int64, shape (n,), never falling.
    """

    users: Int64Array
    sessions: Int64Array
    articles: Int64Array
    times: Int64Array


def description(max_length: int, *, has_users: bool = False, is_dynamic: bool = False) -> TableDescription:
    """Return how to import the table.

    Args:
        max_length: How many elements a history has, at most.
        has_users: Whether users are a feature, too.
        is_dynamic: Whether the tables are dynamic.
    """
    history = {
        "of": "article",
        "by": "session",
        "order": "time",
        "max_length": max_length,
        "elements": [{"column": "time", "type": "integer"}],
        "where": "label",
    }
    names = ["article", "user"] if has_users else ["article"]
    features = [{"column": name, "type": "integer", "dynamic": RULES[name]} if is_dynamic else name for name in names]
    columns = {"label": "label", "weight": "weight", "group": "request", "time": "time", "categorical": features}
    return TableDescription.model_validate({**columns, "history": history})


def read_clicks(path: Path, num_clicks: int, *, has_users: bool = False) -> Clicks:
    """Read the first lines of a log.

    Args:
        path: CSV with a header, plain or gzip; it has LOG_COLUMNS, all of them integers.
        num_clicks: How many lines to read, at most.
        has_users: Whether it has the column USER, too. Without it, each session is a user.
    Raises:
        DatasetError: The file cannot be read, or a column is missing or no integer; names file, line and column.
    """
    columns = (*LOG_COLUMNS, USER if has_users else SESSION)
    try:
        with _opened(path) as lines:
            rows = np.array(list(islice(_rows(path, lines, columns), num_clicks)), dtype=np.int64).reshape(-1, 4)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, OverflowError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); give a log of clicks as CSV, plain or gzip") from error
    sessions, articles, times, users = rows[np.argsort(rows[:, 2], kind="stable")].T
    return Clicks(users, sessions, articles, times)


def _opened(path: Path) -> IO[str]:
    with path.open("rb") as start:
        is_gzip = start.read(2) == _GZIP
    return gzip.open(path, "rt", encoding="utf-8", newline="") if is_gzip else path.open(encoding="utf-8", newline="")


def _rows(path: Path, lines: IO[str], columns: tuple[str, ...]) -> Iterator[tuple[int, ...]]:
    reader = csv.reader(lines)
    header = next(reader, [])
    for name in columns:
        if name not in header:
            raise DatasetError(f"{path}: has no column {name}; the log needs the columns {', '.join(columns)}")
    places = [header.index(name) for name in columns]
    for row in reader:
        try:
            yield tuple(int(row[place]) for place in places)
        except (ValueError, IndexError):
            raise DatasetError(
                f"{path}: line {reader.line_num} does not have an integer in each of {', '.join(columns)}: "
                f"{','.join(row)[:200]}; remove the line"
            ) from None


def write_table(clicks: Clicks, path: Path, num_negatives: int, seed: int) -> int:
    """Write clicks and negatives, as CSV with the columns COLUMNS.

    Args:
        clicks: The clicks.
        path: The file.
        num_negatives: How many negatives a click has, at most: fewer if all that is drawn is in its session.
        seed: Of the negatives.
    Returns:
        The number of clicks that have negatives.
    """
    num_predicted = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        users = clicks.users.tolist()
        for request, (session, time, article, negatives) in enumerate(_requests(clicks, num_negatives, seed)):
            user = users[request]
            # The negatives come first: the history of a line is made of the lines before it.
            writer.writerows((user, session, request, negative, time, 0, 1) for negative in negatives)
            writer.writerow((user, session, request, article, time, 1, int(bool(negatives))))
            num_predicted += bool(negatives)
    return num_predicted


def _requests(clicks: Clicks, num_negatives: int, seed: int) -> Iterator[tuple[int, int, int, list[int]]]:
    """Yield session, time, article and negatives of each click."""
    draw = random.Random(seed).random
    clicked: dict[int, set[int]] = {}  # articles of each session so far
    articles = clicks.articles.tolist()
    columns = zip(clicks.sessions.tolist(), clicks.times.tolist(), articles, strict=True)
    for number, (session, time, article) in enumerate(columns):
        before = clicked.setdefault(session, set())
        negatives: list[int] = []
        if before:
            recent = min(number, RECENT_CLICKS)
            for _ in range(_TRIES * num_negatives):
                drawn = articles[number - 1 - int(draw() * recent)]
                if drawn != article and drawn not in before and drawn not in negatives:
                    negatives.append(drawn)
                    if len(negatives) == num_negatives:
                        break
        yield session, time, article, negatives
        before.add(article)
