"""What programs are compiled for: a file a target, with its passes, its way of lowering, and who executes it."""
