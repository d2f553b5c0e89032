"""Histories of bounded size: a run of days has as many points as a run of an hour.

A history covers the whole run. It is divided into buckets of equally many updates; a bucket keeps
its smallest, largest and last point, and its non-finite points. When there are too many buckets,
they are joined in pairs. A spike or a NaN of the first hour is therefore still there after a week,
points are evenly distributed over the run, and the points that are kept depend on the values only,
not on when the history was read.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Final, Generic, NamedTuple, Self, TypeVar

#: Maximum number of buckets; a bucket has usually three points, at most 11.
BUCKETS_KEPT: Final = 160
#: Up to this number, all non-finite points of a bucket are kept; otherwise the first and the last
#: of each kind.
NONFINITE_KEPT: Final = 8


class Point(NamedTuple):
    """One value of a history."""

    place: int  # the update that it belongs to
    value: float


Bucket = tuple[Point, ...]
Row = TypeVar("Row")
#: Function that turns rows into columns, one per series, with a value or None for each row.
Columns = Callable[[Sequence[Row]], Mapping[str, Sequence[float | None]]]


def thinned(points: Sequence[Point]) -> Bucket:
    """Return the points that a bucket keeps, in order."""
    return _thinned([point.place for point in points], [point.value for point in points])


def _thinned(places: Sequence[int], values: Sequence[float]) -> Bucket:
    """Return `thinned` for points given as columns."""
    if all(map(math.isfinite, values)):
        size = len(values)
        # The usual case, which occurs some hundred thousand times when attaching to a long run.
        kept = range(size) if size < 2 else _extremes(values)
        return tuple([Point(places[index], values[index]) for index in kept])
    points = list(map(Point, places, values))
    finite = [point for point in points if math.isfinite(point.value)]
    chosen = set(_kept_nonfinite([p for p in points if not math.isfinite(p.value)]))
    if finite:
        chosen.update(finite[index] for index in _extremes([point.value for point in finite]))
    return tuple(sorted(chosen, key=lambda point: point.place))


def _extremes(values: Sequence[float]) -> list[int]:
    """Return the sorted indices of the smallest, the largest and the last of finite values."""
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
    """History of several series. Each row has the next values of all series.

    Args:
        columns: function that turns rows into series.
    """

    def __init__(self, columns: Columns[Row]) -> None:
        self._columns = columns
        self._stride = 1  # number of places per bucket
        self._buckets: dict[str, dict[int, Bucket]] = {}  # by series, then by place // stride
        self._open: list[tuple[int, Row]] = []  # the rows of the newest bucket, by place
        self._last_place = -1
        self._points: dict[str, tuple[float, ...]] = {}  # cached values of the closed buckets

    def add(self, place: int, row: Row) -> None:
        """Add a row after all others; a place that is not after the last one becomes the next."""
        place = max(place, self._last_place + 1)
        if self._open and place // self._stride != self._last_place // self._stride:
            self._close()
        self._open.append((place, row))
        self._last_place = place

    def drop_after(self, place: int) -> None:
        """Remove everything after a place, so that it can be added again."""
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
        """Return an independent copy."""
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
            present = [value for value in values if value is not None]
            where = places
            if len(present) < len(values):
                where = [at for at, value in zip(places, values, strict=True) if value is not None]
            found[series] = _thinned(where, present)
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
