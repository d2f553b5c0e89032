"""The widgets of Sanctum, one a file."""
