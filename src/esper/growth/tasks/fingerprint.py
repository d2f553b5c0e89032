"""A fingerprint of the samples of a task: the same for the same data, on every machine."""

import hashlib
from collections.abc import Iterable

import numpy as np

from esper.growth.tasks.samples import Samples

#: Samples that are hashed at a time.
_CHUNK = 4096


def fingerprint_of(parts: Iterable[tuple[str, Samples]], class_names: Iterable[str]) -> str:
    """Return the fingerprint of raw samples in their parts.

    It is computed from raw values, because the last bit of a standardised value can differ between
    machines.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part, samples in sorted(parts):
        digest.update(f"{part} {samples.inputs.dtype.str} {samples.inputs.shape}".encode())
        for start in range(0, len(samples), _CHUNK):
            digest.update(np.ascontiguousarray(samples.inputs[start : start + _CHUNK]).data)
        digest.update(np.ascontiguousarray(samples.labels).data)
    for name in class_names:
        digest.update(name.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
