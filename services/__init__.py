"""The service itself: tasks, their log lines, and the threads that move both."""
