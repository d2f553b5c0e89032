"""Leyline: contracts. Names, payloads, telemetry records and verdicts that all packages share."""
