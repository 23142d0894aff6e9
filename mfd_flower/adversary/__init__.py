"""Malicious nodes of an experiment: what they do, and which they are. No strategy is told."""
