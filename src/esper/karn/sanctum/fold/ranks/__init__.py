"""The stores of several ranks, joined as one run: lights, incidents, status and damage."""
