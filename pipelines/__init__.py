"""What happens to each domain's data, a module a domain."""
