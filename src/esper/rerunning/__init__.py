"""Repeats updates of watched runs from their capsules, in a process of its own."""
