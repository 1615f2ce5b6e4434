"""What is told to others about what happens: metrics."""
