"""From a command or a program to a rank that plays its role."""
