"""Joins and windows beside feature stores and joins by hand."""
