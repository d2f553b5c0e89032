"""The drawing kit: panels, charts, colours, figures, and what a terminal can show."""
