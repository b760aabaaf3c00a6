"""In which order the axes of each tensor lie in memory: decided for the whole graph."""
