"""The command line for people and CI: talks to a server over REST and Socket.IO only."""
