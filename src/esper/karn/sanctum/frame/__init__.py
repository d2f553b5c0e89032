"""What every screen has: header, time bar, keys, status and the mini mode."""
