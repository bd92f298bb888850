"""What the demonstration script needs besides the client: data, a service to talk to, a display."""
