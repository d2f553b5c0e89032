"""The processes of one run (ranks), as torchrun starts them: what they share and agree on."""
