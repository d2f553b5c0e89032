"""Recording of watched training runs: events in a store, incidents in capsules."""
