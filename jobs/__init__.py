"""What one types: each job reads settings, builds, runs, and returns an exit code."""
