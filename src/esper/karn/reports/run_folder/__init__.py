"""The runs of a folder: summaries, their index, filters, the funnel, removal."""
