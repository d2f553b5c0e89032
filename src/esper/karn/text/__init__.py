"""How reports and cockpit write things: numbers, columns, light signs, colours, run names."""
