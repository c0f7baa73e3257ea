"""Backups of one host, their restores and their drills. The program `backup` beside it is how they are called."""
