"""The conversations that a desktop stores for its user: one encrypted file for each."""
