"""What a run costs: bytes that were counted, seconds, joules, FLOPs and memory that follow."""
