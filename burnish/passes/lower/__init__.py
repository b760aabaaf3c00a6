"""In which numbers a program is computed."""
