"""The screen Decisions and its panels."""
