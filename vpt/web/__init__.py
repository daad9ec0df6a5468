"""The web server: REST routes by resource, Socket.IO, and who may call what."""
