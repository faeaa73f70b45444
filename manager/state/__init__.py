"""What the manager remembers: records and their states, in memory and in the database."""
