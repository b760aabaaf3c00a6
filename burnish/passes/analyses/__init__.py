"""What passes need to know about a program before they change it."""
