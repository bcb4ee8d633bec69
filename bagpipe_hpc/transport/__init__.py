"""How rows and plans travel between ranks."""
