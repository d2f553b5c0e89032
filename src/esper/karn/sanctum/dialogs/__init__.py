"""Screens over a screen: help, reasons, quitting, and the end of a run."""
