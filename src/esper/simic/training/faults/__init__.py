"""What training does about values that are not finite: finds, records and recovers from them."""
