"""Real files, beside what others make of them: `make field`."""
