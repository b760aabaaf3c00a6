"""Passes that change the function: cheaper models, and what that costs. None runs unless it is asked for."""
