"""What lets vcut's methods work inside other people's programs. Nothing else in vcut imports this."""
