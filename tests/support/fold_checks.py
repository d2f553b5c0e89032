"""What of a snapshot is compared."""


def lit(latch):
    return [head for head, is_lit in latch.items() if is_lit]


def log_texts(snapshot, level=None):
    return [entry.text for entry in snapshot.log if level in (None, entry.level)]
