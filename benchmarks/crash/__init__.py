"""The parts of the crash test: what clients do and are told, what is killed, and what is compared."""
