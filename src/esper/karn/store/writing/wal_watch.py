"""Watches the size of the WAL, which grows while a reader keeps a transaction open."""


class WalWatch:
    """The state of a store's WAL, as of the last check.

    Args:
        name: file name of the WAL.
        large_bytes: size above which a WAL counts as large.
        limit_bytes: size above which common events are dropped; 0 for no limit.

    Attributes:
        is_large: whether a reader keeps it from being restarted.
        is_full: whether it is also above the limit.
    """

    def __init__(self, name: str, large_bytes: int, limit_bytes: int) -> None:
        self._name = name
        self.large_bytes = large_bytes
        self._limit_bytes = limit_bytes
        self.is_large = False
        self.is_full = False

    def update(self, size: int) -> str | None:
        """Set the state from the WAL's size in bytes; return a line if it changed."""
        before = self.is_large, self.is_full
        self.is_large = size > self.large_bytes
        self.is_full = self.is_large and 0 < self._limit_bytes < size
        if (self.is_large, self.is_full) == before:
            return None
        if self.is_full:
            return (
                f"{self._name} has grown to {size >> 20} MiB, above --store-megabytes, because a "
                "program keeps a transaction on the store open: steps, decisions and seed "
                "transitions are not stored until it ends"
            )
        if self.is_large:
            return (
                f"{self._name} has grown to {size >> 20} MiB, because a program keeps a "
                "transaction on the store open: end that transaction"
            )
        return f"{self._name} is small again: no program keeps a transaction open any more"
