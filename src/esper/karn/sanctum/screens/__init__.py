"""The screens of Sanctum, one a file."""
