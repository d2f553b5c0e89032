"""The screen Overview and its panels."""
