"""The runs of a folder: summaries, the index kept beside them, filters, the funnel, removal."""
