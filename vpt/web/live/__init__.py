"""Live events: the Socket.IO server, its subscribers, and the replay from the database."""
