"""Repeats updates of watched runs from their capsules, in a separate process."""
