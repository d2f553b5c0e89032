"""The screen Hosts and its panels."""
