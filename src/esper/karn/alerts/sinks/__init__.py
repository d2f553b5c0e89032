"""Destinations of alert messages.

A sink sends one message, or raises `SinkError`. Names, results and errors of sinks contain no
secrets: a URL is shown as its host, or as the variable or file that holds it.
"""
