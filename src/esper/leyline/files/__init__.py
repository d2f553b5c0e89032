"""Formats of the files in a run, read without torch, and atomic writes."""
