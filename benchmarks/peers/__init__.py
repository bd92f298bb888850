"""What the service is measured against: the same done as plainly as its libraries' manuals show it."""
