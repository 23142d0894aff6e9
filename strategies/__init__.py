"""One algorithm a file, server half and client half together."""
