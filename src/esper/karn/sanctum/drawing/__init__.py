"""The drawing kit of the cockpit: panels, charts, themes and line filters."""
