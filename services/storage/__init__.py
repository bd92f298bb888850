"""Where tasks and lines are kept: tables, reads, and the one thread that writes."""
