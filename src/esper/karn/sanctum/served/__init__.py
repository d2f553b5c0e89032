"""Sanctum in a browser: a web server, and one cockpit process per page."""
