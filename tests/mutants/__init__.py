"""Faults put into burnish's own source, one at a time: default verification has to see what gives wrong answers."""
