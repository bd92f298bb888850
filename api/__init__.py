"""The HTTP face of the services: routes, errors as answers, and who may ask."""
