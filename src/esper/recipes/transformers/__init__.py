"""Recipe of transformers, PEFT and TRL."""
