"""Telemetry of training: emitters of events, and detection of non-finite values."""
