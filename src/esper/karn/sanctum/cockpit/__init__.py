"""The Textual app: start, keys, polling of the run, settings, exports."""
