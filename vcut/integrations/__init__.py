"""vcut's methods inside other people's programs. Nothing else in vcut imports this."""
