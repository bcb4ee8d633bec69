"""Job scripts for batch systems, rendered from one description. Pure: text in, text out."""
