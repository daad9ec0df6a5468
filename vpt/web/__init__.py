"""The web server: REST routes, live events by Socket.IO, their documents, and the page."""
