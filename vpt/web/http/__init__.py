"""What all routes share: access, parameters, reading requests and building responses."""
