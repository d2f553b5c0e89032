"""Growth: small networks that grow while they train, N of them in lockstep."""
