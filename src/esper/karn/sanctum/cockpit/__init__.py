"""The app itself: opening, keys, what is looked at when, settings and exports."""
