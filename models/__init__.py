"""The wire contract: what requests and answers look like. Imports nothing of this project."""
