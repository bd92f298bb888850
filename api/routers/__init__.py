"""One module a group of routes; each only translates between HTTP and a service."""
