"""The log server's parts: what a record is, and how it is kept."""
