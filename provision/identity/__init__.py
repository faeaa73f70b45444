"""The identity service: SuperMQ's routes for provisioning, and the owner of our broker's credentials."""
