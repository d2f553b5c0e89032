"""Histories that do not grow: as many points for a run of days as for one of an hour.

A history covers the whole run. It is cut into buckets of as many updates each; a bucket keeps its
smallest, its largest and its last point, and its points that are not finite. When there are too
many buckets, they are joined in pairs. So a spike and a NaN of the first hour are still there after
a week, the points lie evenly over the run, and what is kept depends on the points alone, not on
when somebody looked.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Final, Generic, NamedTuple, Self, TypeVar

#: Buckets of a history; of at most 11 points each, and of three as a rule.
BUCKETS_KEPT: Final = 160
#: Non-finite points of a bucket that are all kept; of more, the first and the last of each kind.
NONFINITE_KEPT: Final = 8


class Point(NamedTuple):
    """One value of a history."""

    place: int  # the update it belongs to
    value: float


Bucket = tuple[Point, ...]
Row = TypeVar("Row")
#: Makes of rows a column for each series of a history: a value, or None, for each row.
Columns = Callable[[Sequence[Row]], Mapping[str, Sequence[float | None]]]


def thinned(points: Sequence[Point]) -> Bucket:
    """Return what a bucket keeps of its points, in their order."""
    return _thinned([point.place for point in points], [point.value for point in points])


def _thinned(places: Sequence[int], values: Sequence[float]) -> Bucket:
    """Return `thinned` of the points that these are the columns of."""
    if all(map(math.isfinite, values)):
        size = len(values)
        # Nearly always; and attaching to a long run does this some hundred thousand times.
        kept = range(size) if size < 2 else _extremes(values)
        return tuple([Point(places[index], values[index]) for index in kept])
    points = list(map(Point, places, values))
    finite = [point for point in points if math.isfinite(point.value)]
    chosen = set(_kept_nonfinite([p for p in points if not math.isfinite(p.value)]))
    if finite:
        chosen.update(finite[index] for index in _extremes([point.value for point in finite]))
    return tuple(sorted(chosen, key=lambda point: point.place))


def _extremes(values: Sequence[float]) -> list[int]:
    """Return where the smallest, the largest and the last of finite values are, in order."""
    return sorted({values.index(min(values)), values.index(max(values)), len(values) - 1})


def _kept_nonfinite(points: Sequence[Point]) -> list[Point]:
    if len(points) <= NONFINITE_KEPT:
        return list(points)
    first: dict[str, Point] = {}
    last: dict[str, Point] = {}
    for point in points:
        kind = str(point.value)
        first.setdefault(kind, point)
        last[kind] = point
    return [*first.values(), *last.values()]


class History(Generic[Row]):
    """The history of several series of which every row brings the next values.

    Args:
        columns: takes rows apart into series.
    """

    def __init__(self, columns: Columns[Row]) -> None:
        self._columns = columns
        self._stride = 1  # places in a bucket
        self._buckets: dict[str, dict[int, Bucket]] = {}  # of each series, by place // stride
        self._open: list[tuple[int, Row]] = []  # the rows of the newest bucket, by place
        self._last_place = -1
        self._points: dict[str, tuple[float, ...]] = {}  # of the closed buckets, as asked for

    def add(self, place: int, row: Row) -> None:
        """Add a row after all others; a place that is not beyond the last is taken for the next."""
        place = max(place, self._last_place + 1)
        if self._open and place // self._stride != self._last_place // self._stride:
            self._close()
        self._open.append((place, row))
        self._last_place = place

    def drop_after(self, place: int) -> None:
        """Forget all that is beyond a place, so that it can be told again."""
        if place >= self._last_place:
            return
        self._open = [(other, row) for other, row in self._open if other <= place]
        for series, buckets in self._buckets.items():
            kept = {
                number: tuple(point for point in bucket if point.place <= place)
                for number, bucket in buckets.items()
                if number * self._stride <= place
            }
            self._buckets[series] = {number: bucket for number, bucket in kept.items() if bucket}
        self._points = {}
        self._last_place = max(
            (
                *(other for other, _ in self._open),
                *(b[-1].place for s in self._buckets.values() for b in s.values()),
            ),
            default=-1,
        )

    def values(self) -> dict[str, tuple[float, ...]]:
        """Return the points of each series, oldest first."""
        newest = self._thin_open()
        found = {}
        for series in {**self._buckets, **newest}:
            if series not in self._points:
                closed = self._buckets.get(series, {})
                points = chain.from_iterable(closed.values())
                self._points[series] = tuple(point.value for point in points)
            found[series] = self._points[series] + tuple(
                point.value for point in newest.get(series, ())
            )
        return found

    def copy(self) -> Self:
        """Return a history that goes on from here by itself."""
        copy = type(self)(self._columns)
        copy._stride = self._stride
        copy._buckets = {series: dict(buckets) for series, buckets in self._buckets.items()}
        copy._open = list(self._open)
        copy._last_place = self._last_place
        copy._points = dict(self._points)
        return copy

    def _thin_open(self) -> dict[str, Bucket]:
        if not self._open:
            return {}
        places = [place for place, _ in self._open]
        columns = self._columns([row for _, row in self._open])
        found = {}
        for series, values in columns.items():
            told = [value for value in values if value is not None]
            where = places
            if len(told) < len(values):
                where = [at for at, value in zip(places, values, strict=True) if value is not None]
            found[series] = _thinned(where, told)
        return found

    def _close(self) -> None:
        number = self._last_place // self._stride
        for series, bucket in self._thin_open().items():
            if bucket:
                _put(self._buckets.setdefault(series, {}), number, bucket)
        self._open = []
        self._points = {}
        while any(len(buckets) > BUCKETS_KEPT for buckets in self._buckets.values()):
            self._stride *= 2
            for series, buckets in self._buckets.items():
                joined: dict[int, Bucket] = {}
                for half, bucket in buckets.items():
                    _put(joined, half // 2, bucket)
                self._buckets[series] = joined


def _put(buckets: dict[int, Bucket], number: int, bucket: Bucket) -> None:
    known = buckets.get(number)
    buckets[number] = bucket if known is None else thinned((*known, *bucket))
