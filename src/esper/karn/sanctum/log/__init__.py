"""The screen Log and its panels."""
