"""Program to code: a room for each target."""
