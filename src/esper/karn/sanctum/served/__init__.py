"""Sanctum in a browser: a server for this machine, and the cockpit process behind each page."""
