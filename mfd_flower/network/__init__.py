"""The world that nodes live in, its virtual time, and what goes wrong in it."""
