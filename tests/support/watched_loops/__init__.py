"""A campaign for `esper.watch`: real faults in the loops of many libraries, and clean runs."""
