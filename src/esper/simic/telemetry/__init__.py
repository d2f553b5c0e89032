"""What the update measures about itself, and how it says so."""
