"""What is kept: PostgreSQL, files, and the rules by which old things go."""
