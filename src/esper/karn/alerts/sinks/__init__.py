"""The ways out of an alert process.

A sink sends one message, or raises `SinkError`. No name, result or error of a sink contains a
secret: URLs are named by their host, or by the variable or file that they came from.
"""
