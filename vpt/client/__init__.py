"""The command line for people and CI; it knows a server by REST and Socket.IO only."""
