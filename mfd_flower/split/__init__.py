"""Split learning: links between stages, the pipeline over them, where to cut, whom to join."""
