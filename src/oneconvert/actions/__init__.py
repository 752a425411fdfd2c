"""What oned can ask for: one function per driver action."""
