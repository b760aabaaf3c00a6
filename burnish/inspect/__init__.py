"""Views of the record of a compilation."""
