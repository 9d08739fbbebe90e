"""The contracts of this project's tables, a module a domain."""
