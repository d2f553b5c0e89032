"""What the commands `runs`, `health`, `incidents` and `telemetry` report, as text and JSON."""
