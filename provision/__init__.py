"""Identities: who takes part, with which key, and what each may say on the broker."""
