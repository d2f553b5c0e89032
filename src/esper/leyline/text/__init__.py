"""Words, plurals and command lines in messages, reports and screens."""
