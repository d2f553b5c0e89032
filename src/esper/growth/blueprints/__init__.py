"""What a seed can be: the table of blueprints, and the layers that they are made of."""
